"""pre_rmsnorm: logits are those of the model with LayerNorms; what comes behind it finds RMS norms and no mean."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kind_rooms import ANATOMY
from nightly import AT_NIGHT
from proved import prove
from synthetic import PlanMaker, Shape, random_decoder, run_onnx, worst
from synthetic.strategies import STYLES, Written, law, shapes
from tiny_families import TINY, Tiny, save
from torch_model import Model

from foldrank.digests import WeightDigest
from foldrank.edits.base import Touch, parts_of
from foldrank.edits.drop_branch import DropBranch
from foldrank.edits.laws import check_edits
from foldrank.edits.pre_rmsnorm import PreRmsnorm
from foldrank.edits.replace_weight import ReplaceWeight
from foldrank.edits.rotate_stream import RotateStream
from foldrank.edits.share_weights import ShareWeights
from foldrank.edits.slice_mlp import Channels, SliceMlp
from foldrank.errors import InvariantBroken, PassRefused, PlanMismatch, SourceError
from foldrank.graph.anatomy import anatomy_of
from foldrank.graph.safe.load import load_model
from foldrank.model.checkpoint import Checkpoint
from foldrank.passes.pipeline import transform
from foldrank.passes.rms_norms import RmsNorms
from foldrank.passes.write import write_model
from foldrank.planfile.plan import Plan
from foldrank.plans.calibration import calibration_windows
from foldrank.plans.compose import parse_all, plan_of, run_all
from foldrank.plans.models.decoder import Decoder, load_decoder
from foldrank.plans.reference import reference_model
from foldrank.plans.simulate import apply_edits
from foldrank.runtime.quantizer import quantize
from foldrank.sites import Site
from foldrank.verbs.inspect import inspect

DIGEST = WeightDigest("0" * 64, "0" * 64, "0" * 64)
ALL = tuple(range(4))
WHOLE = PreRmsnorm(48, ALL, ALL)
IDS = np.random.default_rng(6).integers(0, 10, 15)
TEXT = np.random.default_rng(3).integers(0, 250, (4, 16))
POST = Tiny("OPTForCausalLM", "OPTConfig", {**TINY["opt"].options, "do_layer_norm_before": False})


@pytest.mark.parametrize(("fields", "told"), [
    ((1, ALL, ALL), "has no mean"), ((48, (1, 0), ALL), "do not ascend"), ((48, (), ()), "of no block")])
def test_a_stream_has_a_mean_and_blocks_ascend(fields: tuple[int, tuple[int, ...], tuple[int, ...]], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        PreRmsnorm(*fields)


def test_the_anatomy_says_that_the_stream_is_centred() -> None:
    """Weights that read the stream stay what they are, also where blocks share them."""
    assert WHOLE.touch == Touch(reads=parts_of(ALL), writes=parts_of(ALL, ("o", "down")))
    after = WHOLE.on(ANATOMY)
    assert list(after.differences(ANATOMY)) == ["centred: True against False"]
    with pytest.raises(ValueError, match="centred already"):
        WHOLE.on(after)
    with pytest.raises(ValueError, match=r"block 2: its mlp is left out; the stream is changed whole"):
        replace(WHOLE, mlp=(0, 1, 3)).on(ANATOMY)
    turned = RotateStream(48, "0f" * 6, ALL, ALL)
    assert (turned.on(after).centred, turned.on(after).rotated) == (True, 48)
    with pytest.raises(ValueError, match="rotated already"):
        WHOLE.on(turned.on(ANATOMY))
    shared = WHOLE.on(ShareWeights(1, 0, ("q", "o")).on(ANATOMY))
    assert shared.owners == {Site.parse("block.01.q"): Site.parse("block.00.q")}


def test_it_comes_behind_widths_and_before_a_rotation() -> None:
    new = ReplaceWeight(Site.parse("block.01.q"), "W", (DIGEST,))
    narrow = SliceMlp(0, (80, 48), Channels((0, 1)), None, None, (DIGEST,) * 3)
    left = replace(WHOLE, mlp=(0, 2, 3))
    turn = RotateStream(48, "0f" * 6, ALL, (0, 2, 3))
    check_edits([DropBranch(1, "mlp"), narrow, left, turn, new], 4)
    for late, told in (([turn, left], "rotate_stream"), ([left, narrow], "pre_rmsnorm")):
        with pytest.raises(ValueError, match=f"comes before {told}|{told} comes before"):
            check_edits(late, 4)
    with pytest.raises(ValueError, match="edited twice"):
        check_edits([WHOLE, WHOLE], 4)


def test_it_tells_what_it_is() -> None:
    assert WHOLE.sentence() == "LayerNorms became RMS norms: the residual stream of 48 channels has no mean any more."
    assert WHOLE.row() == {"width": 48, "attention": [0, 1, 2, 3], "mlp": [0, 1, 2, 3]}
    assert WHOLE.facts(",".join) == {"stream centred": 48}
    assert list(PreRmsnorm.table([WHOLE]).rows) == [(48, 4, 4)]
    assert PreRmsnorm.unsaid([WHOLE], 4)


def made(source: Written, maker: PlanMaker, folder: Path) -> Path:
    (folder / "small").mkdir()
    model, _ = transform(load_model(source.write(folder / "dense")), maker.plan(), quantizer=quantize)
    write_model(model, folder / "small")
    return folder / "small" / "model.onnx"


@law(6)
@given(data=st.data())
def test_whoever_wrote_a_graph_it_computes_the_same_logits(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """LayerNorms in every form, parallel branches too. The oracle is the decoder as it was, with its LayerNorms."""
    style = data.draw(st.sampled_from(STYLES))
    genai = style.endswith("genai")
    norms = "before" if genai else data.draw(st.sampled_from(["before", "parallel"]))
    shape = replace(data.draw(shapes(style)), dtype="float32", norms=norms)
    shape = replace(shape, packed=shape.packed and norms == "before",
                    layer="op" if genai else data.draw(st.sampled_from(["op", "apart"])))
    decoder = random_decoder(shape, seed=data.draw(st.integers(0, 9)))
    graph = made(Written(decoder, style), PlanMaker(decoder, "0" * 64).centre(), tmp_path_factory.mktemp("law"))
    for steps in ((15,), (6, 1, 8)):
        assert worst(run_onnx(graph, IDS, steps), decoder.logits(IDS)) < 1e-5
    assert anatomy_of(graph).centred is inspect(graph)["centred"] is True


@pytest.mark.parametrize(("style", "layer", "kinds", "means"), [
    ("genai", "op", {"SkipSimplifiedLayerNormalization": 8}, 2), ("optimum", "op", {}, 10),
    ("torch", "apart", {}, 10)])
def test_a_norm_stays_as_it_was_written(
    style: str, layer: str, kinds: dict[str, int], means: int, tmp_path: Path
) -> None:
    """Merged with its sum, or in ONNX's own operators: one mean a norm, one of what enters, and one Sub."""
    decoder = random_decoder(Shape(layer=layer, all_biased=style != "genai"), seed=3)
    graph = load_model(made(Written(decoder, style), PlanMaker(decoder, "0" * 64).centre(), tmp_path)).graph
    found = [node.op_type for node in graph]
    assert {op: found.count(op) for op in found if "Normalization" in op} == kinds
    assert found.count("ReduceMean") == means
    assert sum(node.name.startswith("/centre/") for node in graph) == 2


@pytest.mark.parametrize("layer", ["op", "apart"])
def test_fp16_stays_fp16(layer: str, tmp_path: Path) -> None:
    decoder = random_decoder(Shape(dtype="float16", layer=layer), seed=5)
    graph = made(Written(decoder, "optimum"), PlanMaker(decoder, "0" * 64).centre(), tmp_path)
    assert worst(run_onnx(graph, IDS), decoder.logits(IDS)) < 1e-2
    tensors = [value.const_value for value in load_model(graph).graph.initializers.values()]
    assert {t.dtype for t in tensors if t is not None and t.size > 1 and t.dtype.is_floating_point()} == {
        ir.DataType.FLOAT16}


def test_two_values_that_a_merged_norm_adds_first_are_centred_together(tmp_path: Path) -> None:
    """As ONNX Runtime merges the first norm with the sum of words and positions; here of two tables."""
    decoder = random_decoder(Shape(blocks=1, layer="op", tied=False), seed=1)
    source = Written(decoder, "genai").write(tmp_path / "dense")
    model = load_model(source)
    first = next(node for node in model.graph if node.op_type == "LayerNormalization")
    words = first.inputs[0]
    assert words is not None
    readers = [use for use in words.uses() if use.node is not first]
    table = np.random.default_rng(0).standard_normal((50, 48)).astype(np.float32)
    other = ir.Value(name="other", const_value=ir.tensor(table, name="other"), shape=ir.Shape(table.shape),
                     type=ir.TensorType(ir.DataType.FLOAT))
    model.graph.register_initializer(other)
    gather = ir.Node("", "Gather", [other, model.graph.inputs[0]], name="/model/other/Gather")
    merged = ir.Node("com.microsoft", "SkipLayerNormalization", [words, gather.outputs[0], *first.inputs[1:]],
                     [ir.AttrFloat32("epsilon", 1e-6)], num_outputs=4, name=first.name)
    gather.outputs[0].name = "other_rows"
    for slot, value in enumerate(merged.outputs):
        value.name = f"merged_{slot}"
    model.graph.insert_before(first, [gather, merged])
    first.outputs[0].replace_all_uses_with(merged.outputs[0])
    for use in readers:
        use.node.replace_input_with(use.idx, merged.outputs[3])
    model.graph.remove(first, safe=True)
    changed, _ = transform(model, PlanMaker(decoder, "0" * 64).centre().plan())
    (tmp_path / "small").mkdir()
    write_model(changed, tmp_path / "small")
    whole = replace(decoder, embedding=decoder.embedding + table)
    assert worst(run_onnx(tmp_path / "small" / "model.onnx", IDS), whole.logits(IDS)) < 1e-5


@pytest.mark.parametrize(("shape", "told"), [
    (Shape(), r"block.00.q.*: reads an RMS norm, not a LayerNorm"),
    (Shape(norms="after", layer="op"), r"block.00.q.*: reads no LayerNorm"),
    (Shape(norms="both", layer="apart"), "stands between it and the stream"),
    (Shape(norms="sum", layer="op"), r"block.01.q.*: the norm that it reads is read by .*\(Add\) too")])
def test_other_norms_are_refused_and_the_graph_is_left(shape: Shape, told: str, tmp_path: Path) -> None:
    """RMS norms, and Post-LN in each of its forms."""
    decoder = random_decoder(shape, seed=5)
    model = load_model(Written(decoder, "optimum").write(tmp_path))
    maker = PlanMaker(decoder, "0" * 64)
    maker.centrings.append(WHOLE)
    before = [node.name for node in model.graph]
    with pytest.raises(PassRefused, match=told):
        transform(model, maker.plan())
    assert [node.name for node in model.graph] == before


def test_whatever_else_reads_the_stream_is_refused(tmp_path: Path) -> None:
    """It would miss the mean."""
    decoder = random_decoder(Shape(layer="op"), seed=5)
    model = load_model(Written(decoder, "optimum").write(tmp_path))
    total = next(n for n in model.graph if n.op_type == "Add" and str(n.name).startswith("/model/layers.1/Add"))
    curve = ir.Node("", "Relu", [total.inputs[0]], name="/model/layers.1/Relu")
    curve.outputs[0].name = "curve"
    model.graph.insert_before(total, curve)
    total.replace_input_with(0, curve.outputs[0])
    with pytest.raises(PassRefused, match=r"Relu \(Relu\) reads the stream itself"):
        transform(model, PlanMaker(decoder, "0" * 64).centre().plan())


def test_other_weights_and_other_widths_are_refused(tmp_path: Path) -> None:
    """Of those that read the stream too: a bias is made of them."""
    decoder = random_decoder(Shape(layer="op"), seed=5)
    plan = PlanMaker(decoder, "0" * 64).centre().plan()
    dense = load_model(Written(decoder, "optimum").write(tmp_path / "dense"))
    weights = plan.document.source.weights
    for held, told in (({**weights, "block.02.k": weights["block.01.o"]}, r"block\.02\.k: the graph holds other"),
                       ({}, "holds no digest of it")):
        source = replace(plan.document.source, weights=held)
        with pytest.raises(PlanMismatch, match=told):
            transform(dense, replace(plan, document=replace(plan.document, source=source)))
    wide = replace(plan, document=replace(plan.document, edits=(PreRmsnorm(56, ALL, ALL),)))
    with pytest.raises(PassRefused, match=r"block\.00\.q: is \[48, 128\], of no stream of 56 channels"):
        transform(dense, wide)


def test_a_norm_that_was_forgotten_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = random_decoder(Shape(layer="op"), seed=5)
    dense = load_model(Written(decoder, "optimum").write(tmp_path / "dense"))
    put = RmsNorms.put
    monkeypatch.setattr(RmsNorms, "put", lambda self, norm, **named: None if named else put(self, norm))
    with pytest.raises(InvariantBroken, match="centred: but for /model/norm/LayerNorm"):
        transform(dense, PlanMaker(decoder, "0" * 64).centre().plan())


@pytest.mark.parametrize("family", ["gpt2", *(("opt",) if AT_NIGHT else ())])
def test_graphs_of_real_families_compute_what_transformers_does(
    family: str, tiny_models: Path, tmp_path: Path
) -> None:
    """The oracle is the unedited model with its nn.LayerNorms, but for a fold and a branch that left. A rotation too
    leaves logits as they are, which it would not in front of a LayerNorm."""
    checkpoint = tiny_models / family / "checkpoint"
    model = Model(checkpoint).fold((1, 2), {1: 0.5, 2: 0.5}).drop(4, "attention").centre().rotate()
    prove(tiny_models / family / "optimum" / "model.onnx", model, tmp_path / "small")


@pytest.mark.parametrize("family", ["gpt2", "opt", "falcon", *(
    ("gptneox", "gptneox-serial", "falcon-grouped", "falcon-alibi") if AT_NIGHT else ())])
def test_planner_and_reference_compute_what_the_model_did(family: str, tmp_path: Path) -> None:
    """Both branches of Falcon read one norm; the words of OPT are narrower than its stream."""
    checkpoint = Checkpoint.open(save(TINY[family], tmp_path / "tiny"))
    decoder = load_decoder(checkpoint)
    plan, after = planned(checkpoint, decoder, "pre_rmsnorm")
    with torch.no_grad():
        dense = decoder.logits(decoder.forward(TEXT))
        states = after.forward(TEXT)
        assert states.mean(-1).abs().max() < 1e-5
        assert (after.logits(states) - dense).abs().max() < 1e-5 * dense.abs().max()
        assert (decoder.norm(decoder.forward(TEXT)) - after.norm(states)).abs().max() < 1e-4
        limit = 1e-5 * float(dense.abs().max())
        torch.testing.assert_close(reference(checkpoint, plan), dense, rtol=0, atol=limit)
        turned = planned(checkpoint, decoder, "pre_rmsnorm", "rotate")[1]
        torch.testing.assert_close(turned.logits(turned.forward(TEXT)), dense, rtol=0, atol=limit)
        plan, after = planned(checkpoint, decoder, "ffn_skip:keep=0.9", "flap:keep=0.9", "pre_rmsnorm", "rotate",
                              "quantize:bits=4,block_size=16,accuracy=0,rounding=nearest")
        there = reference(checkpoint, plan)
        torch.testing.assert_close(after.logits(after.forward(TEXT)), there, rtol=0, atol=limit)
        assert (there - dense).abs().max() > 1e-1


def planned(checkpoint: Checkpoint, decoder: Decoder, *methods: str) -> tuple[Plan, Decoder]:
    plan = plan_of(checkpoint, decoder, calibration_windows(checkpoint, None, 256, 0),
                   run_all(decoder, parse_all(methods), TEXT, 0))
    return plan, apply_edits(plan.edits, decoder, plan.arrays)


def reference(checkpoint: Checkpoint, plan: Plan) -> torch.Tensor:
    logits: torch.Tensor = reference_model(checkpoint, plan)(input_ids=torch.from_numpy(TEXT), use_cache=False).logits
    return logits


@pytest.mark.parametrize(("tiny", "told"), [
    (TINY["llama"], "takes no mean away, so there is nothing to be done"),
    (POST, r"norms the stream itself \(Post-LN\)")])
def test_families_without_layer_norms_before_branches_are_refused(tiny: Tiny, told: str, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(save(tiny, tmp_path / "tiny"))
    decoder = load_decoder(checkpoint)
    with pytest.raises(SourceError, match=told):
        run_all(decoder, parse_all(["pre_rmsnorm"]), TEXT, 0)


def test_a_plan_with_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    plan = PlanMaker(random_decoder(Shape(layer="op")), "0" * 64).centre().plan()
    plan.write(tmp_path)
    assert Plan.read(tmp_path).edits == plan.edits
