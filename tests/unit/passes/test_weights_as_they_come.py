"""Weights as exporters leave them: shared, scaled, stacked, behind other operators, rounded, without content.

Each form is edited rightly or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from anonymous import strip_names
from onnx import TensorProto, helper, numpy_helper
from synthetic import Decoder, PlanMaker, Shape, random_decoder, run_onnx, worst, write_graph, write_standard

from foldrank.errors import PassRefused, PlanMismatch
from foldrank.graph.invariants import check_file
from foldrank.graph.safe.load import load_model
from foldrank.graph.view.decoder import read_decoder
from foldrank.passes.pipeline import transform
from foldrank.passes.write import write_model
from foldrank.planfile.plan import Plan

IDS = np.random.default_rng(1).integers(0, 50, 11)
DECODER = random_decoder(Shape(packed=False, biased=True), seed=1)
Change = Callable[[onnx.ModelProto], object]


def made(decoder: Decoder = DECODER) -> PlanMaker:
    return PlanMaker(decoder, "0" * 64)


def dense(folder: Path, change: Change, decoder: Decoder = DECODER, style: str = "genai") -> Path:
    """The decoder's graph, changed."""
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    if style == "genai":
        write_graph(decoder, path)
    else:
        write_standard(decoder, path)
    proto = onnx.load(path)
    change(proto)
    (folder / "model.onnx.data").unlink(missing_ok=True)
    onnx.save(proto, path)
    return path


def computes(graph: Path, plan: Plan, expected: np.ndarray, folder: Path) -> ir.Model:
    changed, _ = transform(load_model(graph), plan)
    folder.mkdir()
    write_model(changed, folder)
    check_file(folder / "model.onnx", "written")
    for steps in (None, (4, 1, 6)):
        assert worst(run_onnx(folder / "model.onnx", IDS, steps), expected) < 1e-4
    return load_model(folder / "model.onnx")


def tensor(proto: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(t for t in proto.graph.initializer if t.name == name)


def node(proto: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(n for n in proto.graph.node if n.name == name)


def share(*blocks: int, role: str = "mlp.down") -> Change:
    """All these blocks read the first one's weight."""
    def change(proto: onnx.ModelProto) -> None:
        for block in blocks[1:]:
            name = f"model.layers.{block}.{role}_proj.MatMul.weight"
            reader = node(proto, f"/model/layers.{block}/{role.replace('.', '/')}_proj/MatMul")
            reader.input[1] = f"model.layers.{blocks[0]}.{role}_proj.MatMul.weight"
            proto.graph.initializer.remove(tensor(proto, name))
    return change


def sharing(*blocks: int, role: str = "down") -> Decoder:
    weights = [dict(block) for block in DECODER.blocks]
    for block in blocks:
        weights[block][role] = weights[blocks[0]][role]
    return replace(DECODER, blocks=weights)


def test_weight_shared_by_blocks_is_factored_for_one_reader_and_stays_for_the_others(tmp_path: Path) -> None:
    decoder = sharing(0, 2, 3)
    maker = made(decoder).low_rank("block.02.down", 5)
    small = computes(dense(tmp_path / "dense", share(0, 2, 3), decoder), maker.plan(), maker.expected().logits(IDS),
                     tmp_path / "small")
    assert small.graph.initializers["model.layers.0.mlp.down_proj.MatMul.weight"].const_value.shape.numpy() == (80, 48)


def test_every_reader_of_a_shared_weight_may_be_factored(tmp_path: Path) -> None:
    """Names of factors come from the weight's name: two pairs must not take one name."""
    decoder = sharing(0, 2, 3)
    maker = made(decoder)
    for block in (0, 2, 3):
        maker.low_rank(f"block.{block:02d}.down", 3 + block, seed=block)
    small = computes(dense(tmp_path / "dense", share(0, 2, 3), decoder), maker.plan(), maker.expected().logits(IDS),
                     tmp_path / "small")
    assert "model.layers.0.mlp.down_proj.MatMul.weight" not in small.graph.initializers


def test_shared_weight_is_replaced_for_one_reader(tmp_path: Path) -> None:
    decoder = sharing(0, 2, 3)
    maker = made(decoder).replace("block.03.down", seed=1).replace("block.00.down", seed=2)
    computes(dense(tmp_path / "dense", share(0, 2, 3), decoder), maker.plan(), maker.expected().logits(IDS),
             tmp_path / "small")


def test_weight_shared_by_two_roles_of_a_block_is_unshared_and_counted_once(tmp_path: Path) -> None:
    weights = [{**block, "up": block["gate"]} for block in DECODER.blocks]
    decoder = replace(DECODER, blocks=weights)

    def change(proto: onnx.ModelProto) -> None:
        for i in range(4):
            node(proto, f"/model/layers.{i}/mlp/up_proj/MatMul").input[1] = (
                f"model.layers.{i}.mlp.gate_proj.MatMul.weight")
            proto.graph.initializer.remove(tensor(proto, f"model.layers.{i}.mlp.up_proj.MatMul.weight"))

    graph = dense(tmp_path / "dense", change, decoder)
    apart = dense(tmp_path / "apart", lambda _: None)
    counts = [read_decoder(load_model(path)).parameters for path in (graph, apart)]
    assert counts[1] - counts[0] == 4 * 48 * 80
    maker = made(decoder).low_rank("block.01.up", 7).replace("block.02.gate")
    computes(graph, maker.plan(), maker.expected().logits(IDS), tmp_path / "small")


def gemm_scaled(**attributes: float) -> Change:
    """Every Gemm of block 2 scales what it adds up."""
    def change(proto: onnx.ModelProto) -> None:
        for found in proto.graph.node:
            if found.op_type == "Gemm" and "layers.2/" in found.name:
                found.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    return change


@pytest.mark.parametrize("attributes", [{"alpha": 0.5}, {"beta": 2.0}], ids=["alpha", "beta"])
@pytest.mark.parametrize("form", ["gemm", "gemm_turned"])
def test_a_gemm_that_scales_is_refused_by_name(tmp_path: Path, form: str, attributes: dict[str, float]) -> None:
    decoder = random_decoder(Shape(form=form, all_biased=True), seed=2)
    model = load_model(dense(tmp_path / "dense", gemm_scaled(**attributes), decoder, "standard"))
    with pytest.raises(PassRefused, match=r"block\.02\.down.*not plain matrices: .*layers\.2.*down_proj.*\(Gemm\)"):
        transform(model, made(decoder).low_rank("block.02.down", 5).plan())
    with pytest.raises(PassRefused, match=r"block 2 holds what cannot be merged: .*\(Gemm\)"):
        transform(model, made(decoder).fold((1, 2), {1: 0.5, 2: 0.5}).plan())
    transform(model, made(decoder).low_rank("block.01.down", 5).plan())


def put_before(op: str, *, kept: int = TensorProto.FLOAT, **attributes: int) -> Change:
    """An operator between every block's up weight and its MatMul; the weight is stored as `kept`."""
    def change(proto: onnx.ModelProto) -> None:
        for i in range(4):
            reader, weight = node(proto, f"/model/layers.{i}/mlp/up_proj/MatMul"), f"model.layers.{i}.mlp.up_proj"
            stored = tensor(proto, f"{weight}.MatMul.weight")
            array = numpy_helper.to_array(stored).astype(helper.tensor_dtype_to_np_dtype(kept))
            stored.CopyFrom(numpy_helper.from_array(array, stored.name))
            new = helper.make_node(op, [reader.input[1]], [f"{weight}/{op}"], f"/model/layers.{i}/mlp/up_proj/{op}",
                                   **attributes)
            proto.graph.node.insert(list(proto.graph.node).index(reader), new)
            reader.input[1] = new.output[0]
    return change


def stack(proto: onnx.ModelProto) -> None:
    """Every block's up weight as [1, in, out]."""
    for i in range(4):
        stored = tensor(proto, f"model.layers.{i}.mlp.up_proj.MatMul.weight")
        stored.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(stored)[None], stored.name))


ODD = {
    "identity": put_before("Identity"),
    "cast": put_before("Cast", kept=TensorProto.FLOAT16, to=TensorProto.FLOAT),
    "three axes": stack,
}


@pytest.mark.parametrize("form", ODD)
@pytest.mark.parametrize("unnamed", [False, True], ids=["named", "unnamed"])
def test_matrices_behind_an_operator_or_with_three_axes_are_refused_by_name_and_copied(
    tmp_path: Path, form: str, unnamed: bool
) -> None:
    graph = dense(tmp_path / "dense", ODD[form])
    if unnamed:
        graph = strip_names(graph, tmp_path / "bare" / "model.onnx", numbered=True)
    model = load_model(graph)
    with pytest.raises(PassRefused, match=r"block\.02\.up: no MatMul with a dense weight.*\(MatMul\)"):
        transform(model, made().low_rank("block.02.up", 5).plan())
    with pytest.raises(PassRefused, match=r"holds what cannot be merged: .*\(MatMul\)"):
        transform(model, made().fold((1, 2), {1: 0.5, 2: 0.5}).plan())
    before = [block.quantised for block in read_decoder(model).blocks]
    assert [len(places) for places in before] == [1] * 4
    changed, _ = transform(model, made().fold((1, 2), {1: 0.0, 2: 1.0}).plan())
    after = read_decoder(changed).blocks[1].quantised
    stored = [[n.inputs[slot].const_value.tobytes() for n, slot in places] for places in (before[2], after)]
    assert stored[0] == stored[1]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_plan_of_a_float32_checkpoint_fits_its_rounded_graph_and_no_other(tmp_path: Path, dtype: str) -> None:
    shape = replace(DECODER.shape, dtype=dtype)
    rounded = replace(DECODER, shape=shape, blocks=[
        {name: value.astype(shape.stored) for name, value in block.items()} for block in DECODER.blocks])
    write_standard(rounded, tmp_path / "model.onnx")
    plan = made().fold((1, 2), {1: 0.5, 2: 0.25}).low_rank("block.00.down", 5).plan()
    changed, _ = transform(load_model(tmp_path / "model.onnx"), plan)
    assert len(read_decoder(changed).blocks) == 3
    rounded.blocks[2]["up"][3, 4] *= shape.stored.type(1.5)
    write_standard(rounded, tmp_path / "model.onnx")
    with pytest.raises(PlanMismatch, match=r"block\.02\.up"):
        transform(load_model(tmp_path / "model.onnx"), plan)


def test_matrices_without_rank_are_edited_as_any(tmp_path: Path) -> None:
    """Zero and rank one: a weight's content is no business of the passes."""
    weights = [dict(block) for block in DECODER.blocks]
    weights[1]["down"] = np.zeros_like(weights[1]["down"])
    weights[2]["up"] = np.outer(weights[2]["up"][:, 0], weights[2]["up"][0]).astype(np.float32)
    decoder = replace(DECODER, blocks=weights)
    maker = made(decoder).fold((1, 2), {1: 0.5, 2: 0.5}).low_rank("block.01.down", 1).low_rank("block.00.up", 1)
    graph = dense(tmp_path / "dense", lambda _: None, decoder)
    computes(graph, maker.plan(), maker.expected().logits(IDS), tmp_path / "small")
