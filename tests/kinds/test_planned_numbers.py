"""Numbers that a plan holds: a graph has them bit for bit, whatever exporter wrote it, and the proof knows each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from synthetic import PlanMaker, Shape, nth, random_decoder, run_onnx, worst
from synthetic.strategies import Written

from foldrank.edits.quantize_weight import QuantizeWeight
from foldrank.edits.storage import FewBits, Form, Numbers
from foldrank.errors import PassRefused, PlanFormatError
from foldrank.graph.linear.marks import SITE
from foldrank.graph.linear.matrices import few_bits, stored_as
from foldrank.graph.safe.load import load_model
from foldrank.graph.view.decoder import read_decoder
from foldrank.passes.pipeline import transform
from foldrank.passes.write import write_model
from foldrank.planfile.plan import Plan
from foldrank.reports.validate import WeightsKept
from foldrank.sites import Site
from foldrank.verbs.planned import planned_numbers

IDS = np.random.default_rng(1).integers(0, 50, 16)


def held(maker: PlanMaker, sites: list[Site], part: int) -> np.ndarray:
    """Numbers, scales or zero points of sites, side by side, as the plan has them."""
    found = {edit.site: edit.held[0] for edit in maker.stored if isinstance(edit, QuantizeWeight)}
    names = [(found[site].numbers, found[site].scales, found[site].zeros)[part] for site in sites]
    return np.concatenate([maker.arrays[str(name)] for name in names])


def in_the_file(path: Path, node: ir.Node) -> list[np.ndarray]:
    """Numbers, scales and zero points of a product, read out of the file by onnx alone, as MatMulNBits has them or
    [in, out] and [blocks, out]."""
    proto = onnx.load(path)
    made = next(n for n in proto.graph.node if n.name == node.name)
    maker = next((n for n in proto.graph.node if made.input[1] in n.output), None)
    names = made.input[1:] if maker is None else maker.input
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    return [numpy_helper.to_array(tensors[name]) for name in names]


def loosened(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """[count, out] of a plan's bytes [out, ...], one by one."""
    rows = packed.reshape(len(packed), -1)
    return np.array([[nth(row, place, bits) for row in rows] for place in range(count)])


@pytest.mark.parametrize(("style", "packed", "storage"), [
    ("genai", True, FewBits(4, 32, True, 0)), ("genai", False, FewBits(8, 16, False, 0)),
    ("optimum", False, FewBits(4, 16, False, 0)), ("torch", False, FewBits(4, 16, True, 0)),
    ("genai", True, FewBits(4, 32, True, 0, "qdq")), ("genai", False, FewBits(8, 32, False, 0, "qdq")),
    ("optimum", False, FewBits(4, 32, False, 0, "qdq")), ("torch", False, FewBits(8, 16, True, 0, "qdq")),
], ids=str)
def test_a_graph_holds_the_plans_numbers(style: str, packed: bool, storage: FewBits, tmp_path: Path) -> None:
    """Blocks of 32 are not full: weights have 48 and 80 inputs."""
    decoder = random_decoder(Shape(blocks=3, packed=packed), seed=5)
    maker = PlanMaker(decoder, "0" * 64).hold(storage)
    model, _ = transform(load_model(Written(decoder, style).write(tmp_path / "dense")), maker.plan())
    (tmp_path / "small").mkdir()
    write_model(model, tmp_path / "small")
    path = tmp_path / "small" / "model.onnx"
    for steps in ((16,), (7, 1, 8)):
        assert worst(run_onnx(path, IDS, steps), maker.expected().logits(IDS)) < 1e-5
    few = [few for block in read_decoder(load_model(path)).blocks for few in block.few_bits]
    assert any(len(one.roles) > 1 for one in few) == packed
    for block in read_decoder(load_model(path)).blocks:
        for one in block.few_bits:
            sites = [Site(block.number, (role,)) for role in one.roles]
            wanted = [held(maker, sites, part) for part in range(2 if storage.symmetric else 3)]
            found = in_the_file(path, one.node)
            if storage.form == "qdq":
                half = 2 ** (storage.bits - 1) if storage.symmetric else 0
                shapes = one.matrix.shape[0], wanted[1].shape[1]
                wanted = [loosened(wanted[0], storage.bits, shapes[0]) - half, wanted[1].T,
                          *(loosened(zeros, storage.bits, shapes[1]) for zeros in wanted[2:])]
            assert len(found) == len(wanted)
            assert all(np.array_equal(one, other) for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_onnx_dequantises_the_plans_numbers(bits: Literal[4, 8], symmetric: bool, tmp_path: Path) -> None:
    """By ONNX's own evaluator, which shares no code with any runtime: a weight of 80 inputs in blocks of 32."""
    decoder = random_decoder(Shape(blocks=2, packed=False), seed=5)
    storage = FewBits(bits, 32, symmetric, 0, "qdq")
    maker = PlanMaker(decoder, "0" * 64).hold(storage)
    model, _ = transform(load_model(Written(decoder, "genai").write(tmp_path / "dense")), maker.plan())
    (tmp_path / "small").mkdir()
    write_model(model, tmp_path / "small")
    proto = onnx.load(tmp_path / "small" / "model.onnx")
    node = next(n for n in proto.graph.node if n.op_type == "DequantizeLinear" and "layers.1/mlp/down" in n.name)
    tensors = [tensor for tensor in proto.graph.initializer if tensor.name in node.input]
    ports = [helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)]
    alone = helper.make_model(helper.make_graph([node], "one", [], ports, tensors), opset_imports=proto.opset_import)
    (found,) = ReferenceEvaluator(alone).run(None, {})
    np.testing.assert_allclose(found, maker.blocks[1]["down"], rtol=1e-6)


@pytest.mark.parametrize("style", ["genai", "optimum"])
@pytest.mark.parametrize("form", ["nbits", "qdq"])
@pytest.mark.parametrize("part", [0, 1])
def test_one_other_number_or_scale_is_found(style: str, form: Form, part: int, tmp_path: Path) -> None:
    decoder = random_decoder(Shape(blocks=3, packed=style == "genai"), seed=5)
    maker = PlanMaker(decoder, "0" * 64).low_rank("block.01.qkv", 11).hold(FewBits(4, 16, True, 0, form))
    plan = maker.plan()
    model, _ = transform(load_model(Written(decoder, style).write(tmp_path / "dense")), plan)
    count = len(maker.stored) + 3  # q, k, v: A and B each
    assert planned_numbers(model, plan) == WeightsKept(compared=count, differ=[], passed=True)
    for node in (n for n in model.graph if few_bits(n) is not None and "block.01" in n.metadata_props[SITE]):
        numbers, others = stored_as(node)
        value = (numbers, *others)[part]
        held = value.const_value
        other = np.array(held.numpy())
        last = other.reshape(-1)[-1:]
        last[:] = np.nextafter(last, 9) if part else last ^ 16 if form == "nbits" else -last.astype(np.int8) - 1
        value.const_value = ir.Tensor(other)
        found = planned_numbers(model, plan)
        assert (found.passed, len(found.differ)) == (False, 1)
        assert found.differ[0].startswith("block.01.")
        value.const_value = held
    assert planned_numbers(model, replace(plan, document=replace(plan.document, edits=()))) is None


@pytest.mark.parametrize("style", ["genai", "optimum"])
@pytest.mark.parametrize("form", ["nbits", "qdq"])
def test_pairs_are_held_factor_by_factor(style: str, form: Form, tmp_path: Path) -> None:
    decoder = random_decoder(Shape(blocks=3, packed=style == "genai"), seed=5)
    maker = PlanMaker(decoder, "0" * 64).low_rank("block.01.qkv", 11).low_rank("block.02.down", 16)
    maker.hold(FewBits(4, 16, True, 0, form))
    model, _ = transform(load_model(Written(decoder, style).write(tmp_path / "dense")), maker.plan())
    (tmp_path / "small").mkdir()
    write_model(model, tmp_path / "small")
    assert {few.rank for few in read_decoder(load_model(tmp_path / "small" / "model.onnx")).blocks[1].pairs} == {11}
    assert worst(run_onnx(tmp_path / "small" / "model.onnx", IDS), maker.expected().logits(IDS)) < 1e-5


@pytest.mark.parametrize("form", ["nbits", "qdq"])
def test_scales_are_stored_as_the_graphs_floats(form: Form, tmp_path: Path) -> None:
    decoder = random_decoder(Shape(dtype="float16"), seed=5)
    maker = PlanMaker(decoder, "0" * 64).hold(FewBits(4, 32, True, 0, form))
    model, _ = transform(load_model(Written(decoder, "genai").write(tmp_path / "dense")), maker.plan())
    few = read_decoder(model).blocks[0].few_bits[0]
    sites = [Site(0, (role,)) for role in few.roles]
    scales = stored_as(few.node)[1][0].const_value
    wanted = held(maker, sites, 1).astype(np.float16)
    assert scales.dtype == ir.DataType.FLOAT16
    assert np.array_equal(scales.numpy(), wanted if form == "nbits" else wanted.T)


def test_numbers_to_nearest_that_a_plan_holds_need_no_quantizer(tmp_path: Path) -> None:
    decoder = random_decoder(Shape(blocks=2), seed=5)
    maker = PlanMaker(decoder, "0" * 64).hold(FewBits(4, 32, True, 0))
    source = load_model(Written(decoder, "genai").write(tmp_path / "dense"))
    maker.stored = [replace(edit, rounding="nearest") for edit in maker.stored]
    plan = maker.plan()
    assert not plan.needs_quantizer
    model, _ = transform(source, plan)
    found = planned_numbers(model, plan)
    assert found is not None
    assert (found.passed, found.compared) == (True, len(maker.stored))
    maker.stored[0] = replace(maker.stored[0], held=())
    with pytest.raises(ValueError, match="a quantizer is needed"):
        transform(load_model(tmp_path / "dense" / "model.onnx"), maker.plan())


def test_numbers_of_another_shape_are_refused(tmp_path: Path) -> None:
    decoder = random_decoder(Shape(), seed=5)
    source = load_model(Written(decoder, "genai").write(tmp_path / "dense"))
    maker = PlanMaker(decoder, "0" * 64).hold(FewBits(4, 32, True, 0))
    first = maker.stored[0]
    name = first.held[0].numbers
    whole = maker.arrays[name]
    maker.arrays[name] = whole[:-1]
    with pytest.raises(PassRefused, match="planned numbers are"):
        transform(source, maker.plan())
    maker.arrays[name] = whole
    maker.stored[0] = replace(first, held=(first.held[0], first.held[0]))
    with pytest.raises(PassRefused, match="planned numbers are of a pair"):
        transform(source, maker.plan())


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    decoder = random_decoder(Shape(blocks=2), seed=5)
    maker = PlanMaker(decoder, "0" * 64).hold(FewBits(4, 32, False, 0))
    plan = maker.plan()
    plan.write(tmp_path)
    again = Plan.read(tmp_path)
    assert again.edits == plan.edits
    assert not again.needs_quantizer
    for name, array in maker.arrays.items():
        assert again.arrays[name].dtype == array.dtype
        assert np.array_equal(again.arrays[name], array)


def test_bytes_where_floats_belong_are_refused(tmp_path: Path) -> None:
    decoder = random_decoder(Shape(blocks=2), seed=5)
    maker = PlanMaker(decoder, "0" * 64).hold(FewBits(8, 32, True, 0))
    name = maker.stored[0].held[0].numbers
    maker.arrays[name] = maker.arrays[name].astype(np.float32)
    maker.plan().write(tmp_path)
    with pytest.raises(PlanFormatError, match="of bytes where the edit asks for floats, or the reverse"):
        Plan.read(tmp_path)


@pytest.mark.parametrize(("rounding", "numbers", "said"), [
    ("gptq", (), "rounding gptq with 0"), ("nearest", (Numbers("a", "b"),) * 3, "with 3"),
    ("gptq", (Numbers("a", "b", "c"),), "zero points"), ("gptq", (Numbers("a", "b"),) * 3, "with 3"),
])
def test_an_edit_has_the_numbers_it_says(rounding: str, numbers: tuple[Numbers, ...], said: str) -> None:
    maker = PlanMaker(random_decoder(Shape(blocks=2), seed=5), "0" * 64).hold(FewBits(8, 32, True, 0))
    with pytest.raises(ValueError, match=said):
        replace(maker.stored[0], rounding=rounding, held=numbers)
