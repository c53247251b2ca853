"""Numbers that a plan holds: a graph has them bit for bit, whatever exporter wrote it, and the proof knows each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from synthetic import PlanMaker, Shape, random_decoder, run_onnx, worst
from synthetic.strategies import Written

from foldrank.edits.quantize_weight import QuantizeWeight
from foldrank.edits.storage import FewBits, Numbers
from foldrank.errors import PassRefused, PlanFormatError
from foldrank.graph.linear.marks import SITE
from foldrank.graph.linear.weights import read
from foldrank.graph.safe.load import load_model
from foldrank.graph.view.decoder import read_decoder
from foldrank.passes.pipeline import transform
from foldrank.passes.write import write_model
from foldrank.planfile.plan import Plan
from foldrank.reports.validate import FewBitsKept
from foldrank.sites import Site
from foldrank.verbs.planned import planned_numbers

IDS = np.random.default_rng(1).integers(0, 50, 16)


def held(maker: PlanMaker, sites: list[Site], part: int) -> np.ndarray:
    """Numbers or scales of sites, side by side, as the plan has them."""
    found = {edit.site: edit.held[0] for edit in maker.stored if isinstance(edit, QuantizeWeight)}
    return np.concatenate([maker.arrays[(found[site].numbers, found[site].scales)[part]] for site in sites])


@pytest.mark.parametrize(("style", "packed", "storage"), [
    ("genai", True, FewBits(4, 32, True, 0)), ("genai", False, FewBits(8, 16, False, 0)),
    ("optimum", False, FewBits(4, 16, False, 0)), ("torch", False, FewBits(4, 16, True, 0)),
])
def test_a_graph_holds_the_plans_numbers(style: str, packed: bool, storage: FewBits, tmp_path: Path) -> None:
    decoder = random_decoder(Shape(packed=packed), seed=5)
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
            for part in (0, 1):
                found = one.node.inputs[1 + part].const_value
                assert np.array_equal(read(found), held(maker, sites, part))


@pytest.mark.parametrize("style", ["genai", "optimum"])
@pytest.mark.parametrize("part", [1, 2])
def test_one_other_number_or_scale_is_found(style: str, part: int, tmp_path: Path) -> None:
    decoder = random_decoder(Shape(packed=style == "genai"), seed=5)
    maker = PlanMaker(decoder, "0" * 64).low_rank("block.01.qkv", 11).hold(FewBits(4, 16, True, 0))
    plan = maker.plan()
    model, _ = transform(load_model(Written(decoder, style).write(tmp_path / "dense")), plan)
    count = len(maker.stored) + 3  # q, k, v: A and B each
    assert planned_numbers(model, plan) == FewBitsKept(compared=count, differ=[], passed=True)
    for node in (n for n in model.graph if n.op_type == "MatMulNBits" and "block.01" in n.metadata_props[SITE]):
        value = node.inputs[part]
        held = value.const_value
        other = np.array(held.numpy())
        other.reshape(-1)[-1] = other.reshape(-1)[-1] ^ 16 if part == 1 else np.nextafter(other.reshape(-1)[-1], 9)
        value.const_value = ir.Tensor(other)
        found = planned_numbers(model, plan)
        assert (found.passed, len(found.differ)) == (False, 1)
        assert found.differ[0].startswith("block.01.")
        value.const_value = held
    assert planned_numbers(model, replace(plan, document=replace(plan.document, edits=()))) is None


@pytest.mark.parametrize("style", ["genai", "optimum"])
def test_pairs_are_held_factor_by_factor(style: str, tmp_path: Path) -> None:
    decoder = random_decoder(Shape(packed=style == "genai"), seed=5)
    maker = PlanMaker(decoder, "0" * 64).low_rank("block.01.qkv", 11).low_rank("block.02.down", 16)
    maker.hold(FewBits(4, 16, True, 0))
    model, _ = transform(load_model(Written(decoder, style).write(tmp_path / "dense")), maker.plan())
    (tmp_path / "small").mkdir()
    write_model(model, tmp_path / "small")
    assert worst(run_onnx(tmp_path / "small" / "model.onnx", IDS), maker.expected().logits(IDS)) < 1e-5


def test_scales_are_stored_as_the_graphs_floats(tmp_path: Path) -> None:
    decoder = random_decoder(Shape(dtype="float16"), seed=5)
    maker = PlanMaker(decoder, "0" * 64).hold(FewBits(4, 32, True, 0))
    model, _ = transform(load_model(Written(decoder, "genai").write(tmp_path / "dense")), maker.plan())
    few = read_decoder(model).blocks[0].few_bits[0]
    sites = [Site(0, (role,)) for role in few.roles]
    scales = few.node.inputs[2].const_value
    assert scales.dtype == ir.DataType.FLOAT16
    assert np.array_equal(scales.numpy(), held(maker, sites, 1).astype(np.float16))


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
