"""Every refusal names its reasons, has the exit code of the contract, and changes nothing."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper
from synthetic import Decoder, PlanMaker, Shape, random_decoder, worst, write_bundle, write_graph

from foldrank.bundle.bundle import Bundle
from foldrank.edits.fold_blocks import FoldBlocks
from foldrank.edits.low_rank import LowRank
from foldrank.errors import GraphNotRecognized, InvariantBroken, PassRefused, PlanMismatch, SourceError
from foldrank.graph.invariants import check_graph
from foldrank.graph.safe.load import load_model
from foldrank.graph.view.decoder import View, read_decoder
from foldrank.passes.drop_blocks import DropBlocks
from foldrank.passes.fold_blocks import FoldWeights
from foldrank.passes.low_rank import FactorLinears
from foldrank.passes.pipeline import run, transform
from foldrank.planfile.plan import Plan
from foldrank.sites import Site
from foldrank.verbs.apply import apply

DECODER = random_decoder(Shape(), seed=1)


def graph_of(decoder: Decoder, folder: Path, change: Callable[[onnx.ModelProto], object] | None = None) -> ir.Model:
    """The decoder's graph, loaded; `change` edits the file before."""
    write_graph(decoder, folder / "model.onnx")
    if change is not None:
        proto = onnx.load(folder / "model.onnx", load_external_data=False)
        change(proto)
        (folder / "model.onnx").write_bytes(proto.SerializeToString())
    return load_model(folder / "model.onnx")


def picture(model: ir.Model) -> str:
    return hashlib.sha256(ir.to_proto(model).SerializeToString(deterministic=True)).hexdigest()


def made(decoder: Decoder = DECODER) -> PlanMaker:
    return PlanMaker(decoder, "0" * 64)


def refuses(model: ir.Model, plan: Plan, error: type[Exception], *matches: str) -> None:
    """The pass refuses with all reasons; the model it was given is as before."""
    before = picture(model)
    with pytest.raises(error) as caught:
        transform(model, plan)
    for match in matches:
        assert match in str(caught.value)
    assert picture(model) == before


def node(proto: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(n for n in proto.graph.node if n.name == name)


def test_weights_of_another_model(tmp_path: Path) -> None:
    model = graph_of(random_decoder(Shape(), seed=2), tmp_path)
    refuses(model, made().fold((1, 2), {1: 0.0, 2: 1.0}).plan(), PlanMismatch, "block.01.q", "tiny")
    refuses(model, made().low_rank("block.03.gate_up", 5).plan(), PlanMismatch, "block.03.gate")
    refuses(model, made().replace("block.00.o").plan(), PlanMismatch, "block.00.o")


def test_one_changed_number_is_found_by_content(tmp_path: Path) -> None:
    blocks = [dict(b) for b in DECODER.blocks]
    blocks[2]["k"] = blocks[2]["k"].copy()
    blocks[2]["k"][3, 4] = np.nextafter(blocks[2]["k"][3, 4], np.float32(9))
    other = replace(DECODER, blocks=blocks)
    assert worst(other.logits(np.arange(9)), DECODER.logits(np.arange(9))) < 1e-6
    refuses(graph_of(other, tmp_path), made().fold((1, 2), {1: 1.0, 2: 0.0}).plan(), PlanMismatch, "block.02.k")


def test_swapped_names_are_found_by_content(tmp_path: Path) -> None:
    """Two blocks whose weights changed places: every name is there, every shape fits."""
    blocks = [DECODER.blocks[i] for i in (0, 2, 1, 3)]
    model = graph_of(replace(DECODER, blocks=blocks), tmp_path)
    refuses(model, made().low_rank("block.01.up", 5).plan(), PlanMismatch, "block.01.up")


def test_another_number_of_blocks(tmp_path: Path) -> None:
    model = graph_of(random_decoder(Shape(blocks=3), seed=1), tmp_path)
    refuses(model, made().plan(), PlanMismatch, "3 blocks", "with 4")


def test_missing_digest(tmp_path: Path) -> None:
    plan = made().fold((1, 2), {1: 0.0, 2: 1.0}).plan()
    source = dataclasses.replace(plan.document.source, weights={})
    plan = Plan(dataclasses.replace(plan.document, source=source), plan.arrays)
    refuses(graph_of(DECODER, tmp_path), plan, PlanMismatch, "no digest")


def test_blocks_of_different_kinds(tmp_path: Path) -> None:
    decoder = replace(DECODER, windows=[-1, 16, -1, -1])
    plan = made(decoder).fold((0, 1), {0: 0.5, 1: 0.5}).plan()
    refuses(graph_of(decoder, tmp_path), plan, PassRefused, "different kinds", "local_window_size")


def test_a_block_of_another_kind_may_leave(tmp_path: Path) -> None:
    decoder = replace(DECODER, windows=[-1, 16, -1, -1])
    model, _ = transform(graph_of(decoder, tmp_path), made(decoder).fold((0, 1, 2), {0: 1.0, 1: 0.0, 2: 0.0}).plan())
    assert sum(n.op_type == "GroupQueryAttention" for n in model.graph) == 2


def test_all_reasons_are_listed(tmp_path: Path) -> None:
    maker = made()
    for site in ("block.00.q", "block.02.o"):
        maker.low_rank(site, 5)
    plan = maker.plan()
    wrong = [replace(e, shape=(e.shape[0] + 1, e.shape[1])) if isinstance(e, LowRank) else e for e in plan.edits]
    plan = Plan(dataclasses.replace(plan.document, edits=tuple(wrong)), plan.arrays)
    refuses(graph_of(DECODER, tmp_path), plan, PassRefused, "block.00.q: weight is (48, 64), plan says (49, 64)",
            "block.02.o: weight is (64, 48)")


def test_quantised_linear_is_named(tmp_path: Path) -> None:
    def quantise(proto: onnx.ModelProto) -> None:
        found = node(proto, "/model/layers.2/mlp/up_proj/MatMul")
        found.op_type, found.domain = "MatMulNBits", "com.microsoft"

    model = graph_of(DECODER, tmp_path, quantise)
    refuses(model, made().low_rank("block.02.up", 5).plan(), PassRefused, "block.02.up", "MatMulNBits")
    refuses(model, made().fold((1, 2), {1: 0.5, 2: 0.5}).plan(), PassRefused, "MatMulNBits")
    transform(model, made().low_rank("block.01.up", 5).plan())


def test_weight_the_merge_does_not_know(tmp_path: Path) -> None:
    def add_scale(proto: onnx.ModelProto) -> None:
        """A per-block scale on the MLP's result."""
        for i in range(4):
            proto.graph.initializer.append(numpy_helper.from_array(np.full(48, i + 1, np.float32), f"scale.{i}"))
            name = f"/model/layers.{i}/mlp"
            up = node(proto, f"{name}/up_proj/MatMul")
            new = onnx.helper.make_node("Mul", [up.input[0], f"scale.{i}"], [f"scaled.{i}"], f"{name}/scale")
            proto.graph.node.insert(list(proto.graph.node).index(up), new)
            up.input[0] = f"scaled.{i}"

    model = graph_of(DECODER, tmp_path, add_scale)
    refuses(model, made().fold((1, 2), {1: 0.0, 2: 1.0}).plan(), PassRefused, "scale.1")


def test_roles_that_read_different_inputs(tmp_path: Path) -> None:
    def part(proto: onnx.ModelProto) -> None:
        up = node(proto, "/model/layers.1/mlp/up_proj/MatMul")
        other = onnx.helper.make_node("Identity", [up.input[0]], ["apart"], "/model/layers.1/mlp/apart")
        proto.graph.node.insert(list(proto.graph.node).index(up), other)
        up.input[0] = "apart"

    refuses(graph_of(DECODER, tmp_path, part), made().low_rank("block.01.gate_up", 5).plan(), PassRefused, "one input")


def test_factors_beyond_fp16(tmp_path: Path) -> None:
    decoder = random_decoder(Shape(dtype="float16"), seed=1)
    maker = made(decoder).low_rank("block.00.o", 5)
    maker.arrays["block.00.o.B"] = maker.arrays["block.00.o.B"] * np.float32(1e6)
    refuses(graph_of(decoder, tmp_path), maker.plan(), PassRefused, "block.00.o.B does not fit fp16")


def test_shared_weight_is_unshared_by_a_fold_and_stays_for_its_other_reader(tmp_path: Path) -> None:
    """Blocks 1 and 3 read one down weight; folding 1 and 2 must leave block 3's as it is."""
    blocks = [dict(b) for b in DECODER.blocks]
    blocks[3]["down"] = blocks[1]["down"]
    decoder = replace(DECODER, blocks=blocks)

    def share(proto: onnx.ModelProto) -> None:
        weights = ["model.layers.1.mlp.down_proj.MatMul.weight", "model.layers.3.mlp.down_proj.MatMul.weight"]
        node(proto, "/model/layers.3/mlp/down_proj/MatMul").input[1] = weights[0]
        kept = [t for t in proto.graph.initializer if t.name != weights[1]]
        del proto.graph.initializer[:]
        proto.graph.initializer.extend(kept)

    model, _ = transform(graph_of(decoder, tmp_path, share), made(decoder).fold((1, 2), {1: 0.0, 2: 1.0}).plan())
    found = {n.name: n.inputs[1].const_value.numpy() for n in model.graph if "down_proj" in n.name}
    np.testing.assert_array_equal(found["/model/layers.3/mlp/down_proj/MatMul"], decoder.blocks[3]["down"])
    np.testing.assert_array_equal(found["/model/layers.1/mlp/down_proj/MatMul"], decoder.blocks[2]["down"])


def test_graphs_that_are_no_decoder(tmp_path: Path) -> None:
    """Without names the attention of block 2 is asked for, which reads the cache of no block before it."""
    def rename(proto: onnx.ModelProto) -> None:
        node(proto, "/model/layers.2/input_layernorm/SkipLayerNorm").input[:2] = (
            "/model/embed_tokens/Gather/output_0", "/model/embed_tokens/Gather/output_0")
        for i, found in enumerate(proto.graph.node):
            found.name = f"n{i}"

    model = graph_of(DECODER, tmp_path, rename)
    refuses(model, made().plan(), GraphNotRecognized, "attention of KV pair 2 does not depend on that of pair 1")


def test_block_that_skips_its_neighbour(tmp_path: Path) -> None:
    def skip(proto: onnx.ModelProto) -> None:
        node(proto, "/model/layers.3/input_layernorm/SkipLayerNorm").input[1] = (
            "/model/layers.1/mlp/down_proj/MatMul/output_0")

    with pytest.raises(GraphNotRecognized, match="goes from block 1 to another place"):
        transform(graph_of(DECODER, tmp_path, skip), made().plan())


def test_boundary_of_another_form(tmp_path: Path) -> None:
    def swap(proto: onnx.ModelProto) -> None:
        found = node(proto, "/model/layers.2/input_layernorm/SkipLayerNorm").input
        found[0], found[1] = found[1], found[0]

    with pytest.raises(GraphNotRecognized, match="what leaves block 1 differs"):
        read_decoder(graph_of(DECODER, tmp_path, swap))


@pytest.mark.parametrize("leaving", [(0,), (0, 1), (9,)])
def test_drop_refuses_the_first_block_and_unknown_ones(tmp_path: Path, leaving: tuple[int, ...]) -> None:
    model = graph_of(DECODER, tmp_path)
    before = picture(model)
    with pytest.raises(PassRefused):
        DropBlocks(leaving).edit(model)
    assert picture(model) == before


def test_passes_leave_the_graph_unchanged_when_they_refuse(tmp_path: Path) -> None:
    """Asked of the passes themselves: the pipeline's copy would hide a half-made change."""
    other = random_decoder(Shape(), seed=2)
    plan = made().fold((1, 2), {1: 0.5, 2: 0.5}).low_rank("block.00.q", 5).low_rank("block.03.down", 5).plan()
    model = graph_of(other, tmp_path)
    before = picture(model)
    fold = FoldWeights(plan.of(FoldBlocks), plan.document.source.weights, "x")
    for step in (fold, FactorLinears(plan.of(LowRank), plan.arrays, "x")):
        with pytest.raises(PlanMismatch):
            step.edit(model)
        assert picture(model) == before


def test_pair_already_there(tmp_path: Path) -> None:
    plan = made().low_rank("block.01.gate_up", 5).plan()
    model, _ = transform(graph_of(DECODER, tmp_path), plan)
    refuses(model, plan, PassRefused, "block.01.gate_up: is a low-rank pair already (rank 5)")


def test_broken_invariant_names_a_reproducer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Breaks(DropBlocks):
        def edit(self, model: ir.Model, view: View | None = None):  # type: ignore[no-untyped-def]
            receipt = super().edit(model, view)
            model.graph.initializers.pop("model.layers.2.mlp.down_proj.MatMul.weight")
            return receipt

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(InvariantBroken, match="foldrank-reproducer-") as caught:
        run(graph_of(DECODER, tmp_path), [Breaks((1,))], made().plan())
    assert caught.value.exit_code == 70
    (folder,) = tmp_path.glob("foldrank-reproducer-*")
    assert {p.name for p in folder.iterdir()} == {"graph.onnx", "plan.json"}
    assert (folder / "graph.onnx").stat().st_size < 100_000


def test_invariants_find_dangling_initializers_and_gaps(tmp_path: Path) -> None:
    model = graph_of(DECODER, tmp_path)
    DropBlocks((1,)).edit(model)
    check_graph(model, "dropped")
    with pytest.raises(InvariantBroken, match="nothing reads the initializer"):
        check_graph(model, "dropped", finished=True)


def test_bundles_that_do_not_fit(tmp_path: Path) -> None:
    dense = write_bundle(DECODER, tmp_path / "dense")
    maker = PlanMaker(DECODER, dense.manifest.source["config_sha256"]).low_rank("block.00.o", 5)
    small = apply(dense, maker.plan(), tmp_path / "small")
    with pytest.raises(PlanMismatch, match="compressed already"):
        apply(small, maker.plan(), tmp_path / "smaller")
    with pytest.raises(PlanMismatch, match=r"config\.json"):
        apply(dense, made().plan(), tmp_path / "other")
    with pytest.raises(SourceError, match="exists"):
        apply(dense, maker.plan(), tmp_path / "small")
    assert Bundle.open(tmp_path / "small") == small
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dense", "small"]


def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = write_bundle(DECODER, tmp_path / "dense")
    maker = PlanMaker(DECODER, dense.manifest.source["config_sha256"]).low_rank("block.00.o", 5)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("foldrank.passes.hashed_file.HashedFile.write", full)
    with pytest.raises(SourceError, match="No space left"):
        apply(dense, maker.plan(), tmp_path / "small")
    assert [p.name for p in tmp_path.iterdir()] == ["dense"]


def test_site_of_a_pair_is_told_when_reading_the_result(tmp_path: Path) -> None:
    from foldrank.verbs.inspect import inspect

    dense = write_bundle(DECODER, tmp_path / "dense")
    maker = PlanMaker(DECODER, dense.manifest.source["config_sha256"])
    maker.fold((1, 2), {1: 0.0, 2: 1.0}, 2).low_rank("block.02.gate_up", 7).low_rank("block.03.k", 3)
    apply(dense, maker.plan(), tmp_path / "small")
    found = inspect(tmp_path / "small")
    ranks = {row["site"]: (row["shape"], row["rank"]) for row in found["sites"]}
    assert ranks["block.02.gate_up"] == ([48, 160], 7)
    assert ranks["block.03.k"] == ([48, 32], 3)
    assert ranks["block.03.v"] == ([48, 32], None)
    assert (found["blocks"], found["block_numbers"]) == (3, [0, 2, 3])
    assert Site.parse("block.02.down") in map(Site.parse, ranks)
