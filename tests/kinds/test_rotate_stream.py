"""rotate_stream: what it is, what it leaves, and that each of its rooms turns the stream while logits stay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kind_rooms import ANATOMY, Edited, Rooms
from nightly import AT_NIGHT
from proved import prove
from synthetic import Decoder, PlanMaker, Shape, random_decoder, run_onnx, worst
from synthetic.strategies import STYLES, Written, law, shapes
from tiny_families import TINY, save
from torch_model import Model

from foldrank.digests import WeightDigest
from foldrank.edits.base import Touch, parts_of
from foldrank.edits.drop_branch import DropBranch
from foldrank.edits.laws import check_edits
from foldrank.edits.replace_weight import ReplaceWeight
from foldrank.edits.rotate_stream import RotateStream
from foldrank.edits.share_weights import ShareWeights
from foldrank.edits.slice_mlp import Channels, SliceMlp
from foldrank.edits.storage import FewBits
from foldrank.errors import InvariantBroken, PassRefused, PlanMismatch, SourceError
from foldrank.graph.anatomy import anatomy_of, read_anatomy
from foldrank.graph.safe.load import load_model
from foldrank.graph.view.decoder import read_decoder
from foldrank.model.checkpoint import Checkpoint
from foldrank.passes.pipeline import transform
from foldrank.passes.rotate_stream import RotateEnds
from foldrank.passes.write import write_model
from foldrank.planfile.plan import Plan
from foldrank.plans.models.decoder import load_decoder
from foldrank.plans.simulate import apply_edits
from foldrank.runtime.quantizer import quantize
from foldrank.sites import Site
from foldrank.verbs.inspect import inspect

DIGEST = WeightDigest("0" * 64, "0" * 64, "0" * 64)
ALL = tuple(range(4))
WHOLE = RotateStream(48, "0f" * 6, ALL, ALL)
IDS = np.random.default_rng(6).integers(0, 10, 15)


@pytest.mark.parametrize(("fields", "told"), [
    ((48, "0f" * 5, ALL, ALL), "12 lower hexadecimal digits"), ((48, "0F" * 6, ALL, ALL), "12 lower hexadecimal"),
    ((48, "0x" * 6, ALL, ALL), "12 lower hexadecimal"), ((1, "80", ALL, ALL), "lower hexadecimal"),
    ((5, "f4", ALL, ALL), "behind the last of 5"), ((48, "0f" * 6, (1, 0), ALL), "do not ascend"),
    ((48, "0f" * 6, (0, 0), ALL), "do not ascend"), ((48, "0f" * 6, (-1, 0), ALL), "do not ascend"),
    ((48, "0f" * 6, (), ()), "of no block"),
])
def test_signs_are_as_many_as_channels_and_blocks_ascend(fields: tuple[int, str, tuple[int, ...], tuple[int, ...]],
                                                         told: str) -> None:
    with pytest.raises(ValueError, match=told):
        RotateStream(*fields)
    assert RotateStream(5, "f0", (0,), ()).width == 5


def test_it_turns_whole_blocks_and_the_anatomy_says_so() -> None:
    assert WHOLE.touch == Touch(reads=parts_of(ALL), writes=parts_of(ALL))
    after = WHOLE.on(ANATOMY)
    assert (after.rotated, ANATOMY.rotated) == (48, None)
    assert after != ANATOMY
    assert list(after.differences(ANATOMY)) == ["rotated: 48 against None"]
    assert after.blocks == ANATOMY.blocks
    with pytest.raises(ValueError, match="rotated already"):
        WHOLE.on(after)


def test_no_branch_is_left_out_and_none_is_made_up() -> None:
    for odd in (replace(WHOLE, mlp=(0, 1, 3)), replace(WHOLE, attention=(*ALL, 4))):
        with pytest.raises(ValueError, match=r"block 2: its mlp is left out|block 4: its attention is not there"):
            odd.on(ANATOMY)
    less = DropBranch(2, "mlp").on(ANATOMY)
    assert replace(WHOLE, mlp=(0, 1, 3)).on(less).rotated == 48
    with pytest.raises(ValueError, match=r"block\.00\.q: is \[48, 64\].*no matrix of floats of a stream of 64"):
        RotateStream(64, "0f" * 8, ALL, ALL).on(ANATOMY)


def test_what_was_one_weight_is_one_no_more() -> None:
    """Each reader has its own norm's gain in it."""
    shared = ShareWeights(1, 0, ("q", "o")).on(ANATOMY)
    assert shared.owners
    assert WHOLE.on(shared).owners == {}


def test_it_comes_behind_widths_and_before_weights() -> None:
    new = ReplaceWeight(Site.parse("block.01.q"), "W", (DIGEST,))
    narrow = SliceMlp(0, (80, 48), Channels((0, 1)), None, None, (DIGEST,) * 3)
    check_edits([DropBranch(1, "mlp"), narrow, replace(WHOLE, mlp=(0, 2, 3)), new], 4)
    with pytest.raises(ValueError, match="rotate_stream comes before replace_weight"):
        check_edits([new, WHOLE], 4)
    with pytest.raises(ValueError, match="left with an earlier edit"):
        check_edits([DropBranch(1, "mlp"), WHOLE], 4)
    with pytest.raises(ValueError, match="edited twice"):
        check_edits([WHOLE, WHOLE], 4)


def test_it_tells_what_it_is() -> None:
    assert WHOLE.sentence() == "The residual stream of 48 channels is rotated between embedding and final norm."
    assert WHOLE.row() == {"width": 48, "attention": [0, 1, 2, 3], "mlp": [0, 1, 2, 3]}
    assert WHOLE.facts(",".join) == {"stream rotated with signs": "0f" * 6}
    assert list(RotateStream.table([WHOLE]).rows) == [(48, 4, 4)]
    assert RotateStream.unsaid([WHOLE], 4)


def test_the_matrix_is_what_the_edit_says(tmp_path: Path) -> None:
    """Four channels, the second's sign turned: entries by hand. In the graph once, read twice."""
    half = np.array([[1, -1, 1, 1], [-1, 1, 1, 1], [1, 1, 1, -1], [1, 1, -1, 1]]) / 2
    assert (half @ half == np.eye(4)).all()
    decoder = random_decoder(Shape(width=4, heads=2, kv_heads=1, blocks=2), seed=1)
    maker = PlanMaker(decoder, "0" * 64)
    maker.rotations.append(RotateStream(4, "40", (0, 1), (0, 1)))
    model, receipts = transform(load_model(Written(decoder, "genai").write(tmp_path)), maker.plan())
    rows = [row for receipt in receipts for row in receipt.rows() if row.where == "the stream"]
    assert [(row.bytes_before, row.bytes_after) for row in rows] == [(0, 4 * 4 * 4)]
    products = [node for node in model.graph if node.name.startswith("/rotation/") and node.op_type == "MatMul"]
    assert len(products) == 2
    (matrix,) = {node.inputs[1] for node in products}
    assert matrix.const_value is not None
    assert np.allclose(matrix.const_value.numpy(), half, rtol=0, atol=1e-7)


def made(source: Written, maker: PlanMaker, folder: Path) -> Path:
    (folder / "small").mkdir()
    model, _ = transform(load_model(source.write(folder / "dense")), maker.plan(), quantizer=quantize)
    write_model(model, folder / "small")
    return folder / "small" / "model.onnx"


@law(5)
@given(data=st.data())
def test_whoever_wrote_a_graph_it_computes_the_same_logits(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Of any shape whose norms allow it; parallel branches too. The oracle is the decoder as it was."""
    style = data.draw(st.sampled_from(STYLES))
    shape = data.draw(shapes(style))
    norms = "before" if style.endswith("genai") else data.draw(st.sampled_from(["before", "parallel"]))
    shape = replace(shape, dtype="float32", norms=norms, packed=shape.packed and norms == "before")
    decoder = random_decoder(shape, seed=data.draw(st.integers(0, 9)))
    maker = PlanMaker(decoder, "0" * 64).rotate(data.draw(st.integers(0, 9)))
    graph = made(Written(decoder, style), maker, tmp_path_factory.mktemp("law"))
    for steps in ((15,), (6, 1, 8)):
        assert worst(run_onnx(graph, IDS, steps), decoder.logits(IDS)) < 1e-5
    assert anatomy_of(graph).rotated == inspect(graph)["rotated"] == shape.width


@pytest.mark.parametrize(("style", "form"), [
    ("optimum", "gemm"), ("torch", "gemm_turned"), ("optimum", "turned"), ("unnamed genai", "matmul")])
def test_however_weights_lie(style: str, form: str, tmp_path: Path) -> None:
    """With biases everywhere: those of writers turn too."""
    decoder = random_decoder(Shape(form=form, all_biased=not style.endswith("genai"), qk_norm=form != "matmul"), seed=3)
    graph = made(Written(decoder, style), PlanMaker(decoder, "0" * 64).rotate(), tmp_path)
    assert worst(run_onnx(graph, IDS), decoder.logits(IDS)) < 1e-5


def test_fp16_stays_fp16(tmp_path: Path) -> None:
    decoder = random_decoder(Shape(dtype="float16"), seed=5)
    for style in ("genai", "optimum"):
        (tmp_path / style).mkdir()
        graph = made(Written(decoder, style), PlanMaker(decoder, "0" * 64).rotate(), tmp_path / style)
        assert worst(run_onnx(graph, IDS), decoder.logits(IDS)) < 1e-2
        tensors = load_model(graph).graph.initializers.values()
        assert {t.dtype for t in tensors if t.dtype is not None and t.dtype.is_floating_point()} <= {
            ir.DataType.FLOAT16, *([ir.DataType.FLOAT] if style == "optimum" else [])}


def test_the_graph_computes_what_is_planned_in_the_other_basis(decoder: tuple[Decoder, str], edited: Edited) -> None:
    """Behind a fold, a slice with another down and a bias, and a bias behind o; below pairs and another weight."""
    maker = PlanMaker(decoder[0], "0" * 64).fold((1, 2), {1: 0.25, 2: 0.75}, into=2)
    maker.slice(0, tuple(range(0, 80, 2)), down=True, bias=True).bias("block.03.o")
    maker.rotate(1).replace("block.00.o").low_rank("block.02.qkv", 9).low_rank("block.03.down", 7)
    assert read_anatomy(read_decoder(edited(maker))).rotated == 48


@pytest.mark.parametrize("style", ["genai", "optimum"])
def test_what_is_stored_in_few_bits_is_the_turned_weight(style: str, tmp_path: Path) -> None:
    """The first and the last block lost a branch, so that the stream begins and ends otherwise."""
    decoder = random_decoder(Shape(blocks=5), seed=2)
    maker = PlanMaker(decoder, "0" * 64).drop(0, "attention").drop(4, "mlp").drop(2, "mlp").rotate(3)
    maker.quantize(FewBits(8, 16, True, 0))
    graph = made(Written(decoder, style), maker, tmp_path)
    assert worst(run_onnx(graph, IDS), maker.expected().logits(IDS)) < 1e-4
    assert worst(run_onnx(graph, IDS, (6, 1, 8)), maker.expected().logits(IDS)) < 1e-4


@pytest.mark.parametrize(("norms", "told"), [
    ("after", "block.00.q, block.00.k, block.00.v: reads no RMS norm"), ("both", "stands between it and the stream"),
    ("sum", r"block.01.q.*: the norm that it reads is read by .*\(Add\) too")])
def test_other_norms_are_refused_and_the_graph_is_left(norms: str, told: str, tmp_path: Path) -> None:
    decoder = random_decoder(Shape(norms=norms), seed=5)
    model = load_model(Written(decoder, "optimum").write(tmp_path))
    maker = PlanMaker(decoder, "0" * 64)
    maker.rotations.append(WHOLE)
    before = [node.name for node in model.graph]
    with pytest.raises(PassRefused, match=told):
        transform(model, maker.plan())
    assert [node.name for node in model.graph] == before


def test_other_weights_and_other_widths_are_refused(tmp_path: Path) -> None:
    decoder = random_decoder(Shape(), seed=5)
    plan = PlanMaker(decoder, "0" * 64).rotate().plan()
    dense = load_model(Written(decoder, "genai").write(tmp_path / "dense"))
    weights = plan.document.source.weights
    for held, told in (({**weights, "block.02.k": weights["block.01.o"]}, r"block\.02\.k: the graph holds other"),
                       ({}, "holds no digest of it")):
        source = replace(plan.document.source, weights=held)
        with pytest.raises(PlanMismatch, match=told):
            transform(dense, replace(plan, document=replace(plan.document, source=source)))
    wide = replace(plan, document=replace(plan.document, edits=(RotateStream(56, "00" * 7, ALL, ALL),)))
    with pytest.raises(PassRefused, match=r"block\.00\.q: is \[48, 128\], of no stream of 56 channels"):
        transform(dense, wide)


def test_half_a_rotation_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = random_decoder(Shape(), seed=5)
    dense = load_model(Written(decoder, "genai").write(tmp_path / "dense"))
    monkeypatch.setattr(RotateEnds, "_behind", lambda *_: None)
    with pytest.raises(InvariantBroken, match="rotated: multiplied by /rotation/enter against 48"):
        transform(dense, PlanMaker(decoder, "0" * 64).rotate().plan())


@pytest.mark.parametrize("family", ["llama", *(("mistral", "qwen2") if AT_NIGHT else ())])
def test_graphs_of_real_families_compute_what_transformers_does(
    family: str, tiny_models: Path, tmp_path: Path
) -> None:
    model = Model(tiny_models / family / "checkpoint").fold((1, 2), {1: 0.5, 2: 0.5}).drop(4, "attention")
    prove(tiny_models / family / "optimum" / "model.onnx", model.rotate(), tmp_path / "small")


def test_a_graph_with_norms_behind_branches_is_refused(tiny_models: Path) -> None:
    model = Model(tiny_models / "gemma2" / "checkpoint").rotate()
    with pytest.raises(PassRefused, match="stands between it and the stream"):
        transform(load_model(tiny_models / "gemma2" / "optimum" / "model.onnx"), model.plan())


def test_planner_and_reference_agree(rooms: Rooms, tiny: Checkpoint) -> None:
    """With what the earlier edits left, and a weight in the new basis; alone it changes nothing."""
    decoder = load_decoder(tiny)
    turn = RotateStream(64, "93a5c60f1e2d7b48", tuple(range(6)), tuple(range(6)))
    dense, planned, reference = rooms([turn], {})
    torch.testing.assert_close(planned, reference, rtol=0, atol=1e-5)
    torch.testing.assert_close(planned, dense, rtol=0, atol=1e-4)
    after = apply_edits([turn], decoder, {})
    assert after.rotated
    assert after.other_parameters == decoder.other_parameters + 64 * 64
    assert (after.block(1).weight("q") - decoder.block(1).weight("q")).abs().max() > 1e-1
    new = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32) * 0.2
    edits = [DropBranch(0, "attention"), DropBranch(5, "mlp"),
             replace(turn, attention=tuple(range(1, 6)), mlp=tuple(range(5))),
             ReplaceWeight(Site.parse("block.02.q"), "W", (DIGEST,))]
    dense, planned, reference = rooms(edits, {"W": new})
    torch.testing.assert_close(planned, reference, rtol=0, atol=1e-4)
    assert (dense - reference).abs().max() > 1e-1


@pytest.mark.parametrize("family", ["gemma", "granite", "phi3"])
def test_gains_of_every_form_are_folded(family: str, tmp_path: Path) -> None:
    """1 + g, multipliers on the residual, packed weights: the planner's model computes what it did."""
    decoder = load_decoder(Checkpoint.open(save(TINY[family], tmp_path / "tiny")))
    ids = np.random.default_rng(3).integers(0, 250, (2, 12))
    width = len(decoder.table)
    after = apply_edits([RotateStream(width, "5a" * (width // 8), tuple(range(6)), tuple(range(6)))], decoder, {})
    with torch.no_grad():
        dense, turned = (d.logits(d.forward(ids)) for d in (decoder, after))
        states = [d.norm(d.forward(ids)) for d in (decoder, after)]
    assert (turned - dense).abs().max() < 2e-5 * dense.abs().max()
    assert (states[1] - states[0]).abs().max() < 2e-5 * states[0].abs().max()


@pytest.mark.parametrize(("family", "way_out"), [
    ("gemma2", "without rotate"), ("olmo2", "without rotate"), ("gpt2", "pre_rmsnorm before rotate")])
def test_families_with_other_norms_are_refused(family: str, way_out: str, tmp_path: Path) -> None:
    decoder = load_decoder(Checkpoint.open(save(TINY[family], tmp_path / "tiny")))
    width = len(decoder.table)
    with pytest.raises(SourceError, match=f"one RMS norm before each and none behind.*{way_out}"):
        apply_edits([RotateStream(width, "00" * (width // 8), tuple(range(6)), tuple(range(6)))], decoder, {})


def test_a_plan_with_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    plan = PlanMaker(random_decoder(Shape()), "0" * 64).rotate().plan()
    plan.write(tmp_path)
    assert Plan.read(tmp_path).edits == plan.edits
