"""Weights stored in few bits: the quantizer of ONNX Runtime against the planner's formula, and graphs of every family
against PyTorch with the same plan."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nightly import AT_NIGHT
from proved import Planned, prove

import foldrank
from foldrank.digests import WeightDigest
from foldrank.edits.low_rank import LowRank
from foldrank.edits.quantize_head import QuantizeHead
from foldrank.edits.quantize_weight import QuantizeWeight
from foldrank.edits.storage import FewBits, Form, StorageEdit
from foldrank.errors import PassRefused, PlanMismatch
from foldrank.graph.anatomy import anatomy_of
from foldrank.graph.linear.head import head_of
from foldrank.graph.safe.load import load_model
from foldrank.graph.view.decoder import read_decoder
from foldrank.passes.pipeline import passes_for, transform
from foldrank.planfile.document import PlanDocument
from foldrank.planfile.plan import Plan
from foldrank.plans.models.rounding import rounded
from foldrank.runtime.quantizer import quantize
from foldrank.sites import Site
from foldrank.verbs.planned import planned_numbers

EXACT = "quantize:bits=4,block_size=16,accuracy=0,rounding=nearest,head_bits=none,embedding_bits=none"
FAMILIES = ("llama", "gpt2", "opt", *(("mistral", "qwen2", "gemma2") if AT_NIGHT else ()))
"""Packed and single weights, MatMul and Gemm, with biases and without; the others are forms of the first."""


def cases(*standard: str) -> list[tuple[str, Form]]:
    """Every family in the common form, and these (at night all) in standard operators."""
    chosen = FAMILIES if AT_NIGHT else standard
    return [*((family, "nbits") for family in FAMILIES), *((family, "qdq") for family in chosen)]


def unpacked(weight: np.ndarray, storage: FewBits) -> np.ndarray:
    """[in, out] as MatMulNBits reads numbers, scales and zero points (ONNX Runtime, ContribOperators.md)."""
    numbers, scales, zeros = quantize(weight, storage.bits, storage.block_size, storage.symmetric)
    outs, groups = scales.shape

    def values(packed: np.ndarray, count: int) -> np.ndarray:
        flat = packed.reshape(outs, -1)
        shifts = range(0, 8, storage.bits)
        found = np.stack([flat >> shift & 2**storage.bits - 1 for shift in shifts], axis=-1).reshape(outs, -1)
        return found[:, :count].astype(np.float64)

    zero = np.full((outs, groups), 2.0 ** (storage.bits - 1)) if zeros is None else values(zeros, groups)
    steps = values(numbers, groups * storage.block_size).reshape(outs, groups, storage.block_size) - zero[..., None]
    return (steps * scales[..., None]).reshape(outs, -1)[:, : len(weight)].T


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 70), columns=st.integers(1, 9), bits=st.sampled_from([2, 4, 8]),
    block_size=st.sampled_from([16, 32, 64]), symmetric=st.booleans(), scale=st.sampled_from([1e-4, 1.0, 300.0]),
    kind=st.sampled_from(["normal", "constant", "positive", "zero"]),
)
def test_the_planner_rounds_as_the_quantizer_does(
    seed: int, rows: int, columns: int, bits: int, block_size: int, symmetric: bool, scale: float, kind: str
) -> None:
    random = np.random.default_rng(seed)
    weight = {"normal": random.standard_normal, "constant": np.ones, "zero": np.zeros,
              "positive": random.random}[kind]((rows, columns)).astype(np.float32) * np.float32(scale)
    storage = FewBits(bits, block_size, symmetric, 0)  # type: ignore[arg-type]
    found = rounded(torch.from_numpy(weight), storage).numpy()
    assert np.allclose(found, unpacked(weight, storage), rtol=1e-6, atol=1e-7 * scale)
    steps = np.abs(weight).max() * 2 / (2**bits - 1)
    assert np.abs(found - weight).max() <= steps * 1.1  # a symmetric range ends one step short on one side


@functools.cache
def planned(folder: Path, *methods: str) -> Plan:
    return foldrank.plan(folder / "checkpoint", methods=list(methods), calibration_tokens=256)


def in_form(plan: Plan, form: Form) -> Plan:
    """The plan with all that it stores in this form: the same numbers."""
    edits = tuple(replace(e, storage=replace(e.storage, form=form)) if isinstance(e, StorageEdit) else e
                  for e in plan.edits)
    return replace(plan, document=replace(plan.document, edits=edits))


@pytest.mark.parametrize(("family", "form"), cases("gpt2"))
def test_a_quantized_graph_computes_what_pytorch_does(
    family: str, form: Form, tiny_models: Path, tmp_path: Path
) -> None:
    folder = tiny_models / family
    with_head = EXACT.replace("head_bits=none", "head_bits=4")
    methods = ["dipsvd:keep=0.7,align=1", EXACT] if family in ("llama", "gpt2") else [with_head]
    plan = in_form(planned(folder, *methods), form)
    model = Planned(folder / "checkpoint", plan)
    dense = folder / "optimum" / "model.onnx"
    graph = prove(dense, model, tmp_path, quantize)
    before, decoder = (read_decoder(load_model(g)) for g in (dense, graph))
    assert not any(block.linears for block in decoder.blocks)
    assert {few.matrix.dtype for block in decoder.blocks for few in block.few_bits} <= {"int4"}
    assert sum(len(block.pairs) for block in decoder.blocks) == len(plan.of(LowRank))
    assert {pair.a.dtype for block in decoder.blocks for pair in block.pairs} <= {"int4"}
    predicted = plan.document.predicted
    saved = predicted["parameters_before"] - predicted["parameters_after"]
    assert before.parameters - decoder.parameters == saved
    assert (head_of(load_model(dense).graph).op_type, head_of(load_model(graph).graph).op_type) == (
        "MatMul", "MatMulNBits" if plan.of(QuantizeHead) and form == "nbits" else "MatMul")
    operators = {node.op_type for node in load_model(graph).graph}
    assert ("MatMulNBits" in operators, "DequantizeLinear" in operators) == (form == "nbits", form == "qdq")


@pytest.mark.parametrize(("family", "form"), cases("llama"))
def test_planned_numbers_and_tables_are_computed_as_pytorch_does(
    family: str, form: Form, tiny_models: Path, tmp_path: Path
) -> None:
    folder = tiny_models / family
    methods = [*(["dipsvd:keep=0.7,align=1"] if family == "gpt2" else []), "quantize:block_size=16,accuracy=0"]
    plan = in_form(planned(folder, *methods), form)
    assert all(edit.rounding == "gptq" for edit in plan.of(QuantizeWeight))
    graph = prove(folder / "optimum" / "model.onnx", Planned(folder / "checkpoint", plan), tmp_path, quantize)
    found = planned_numbers(load_model(graph), plan)
    assert found.passed
    assert found.compared == sum(len(edit.held) for edit in plan.of(QuantizeWeight))
    asked = {edit.kind for edit in plan.edits} & {"quantize_head", "quantize_embedding"}
    after = anatomy_of(graph)
    assert (after.head.few_bits is not None, after.embedding is not None) == (True, "quantize_embedding" in asked)
    assert {few.form for few in (after.head.few_bits, after.embedding) if few is not None} == {form}


def llama_plan(tiny_models: Path, *methods: str) -> Plan:
    return planned(tiny_models / "llama", *methods)


def test_a_changed_weight_and_an_unknown_site_are_refused(tiny_models: Path) -> None:
    model = load_model(tiny_models / "llama" / "optimum" / "model.onnx")
    plan = llama_plan(tiny_models, EXACT)
    first = plan.of(QuantizeWeight)[0]
    other = replace(first, replaces=(WeightDigest.of(np.zeros((3, 3), np.float32)),))
    with pytest.raises(PlanMismatch, match=str(first.site)):
        transform(model, with_edits(plan, other, *plan.of(QuantizeWeight)[1:]), quantizer=quantize)
    wrong = replace(first, shape=(first.shape[0] + 1, first.shape[1]))
    with pytest.raises(PassRefused, match=f"{first.site}: reads {first.shape[0]} inputs"):
        transform(model, with_edits(plan, wrong, *plan.of(QuantizeWeight)[1:]), quantizer=quantize)
    assert not any(node.op_type == "MatMulNBits" for node in model.graph)


def test_roles_of_one_packed_weight_are_stored_alike(tiny_models: Path) -> None:
    """A pair of q, k, v has one A: storing k in another way, or not at all, cannot be done."""
    model = load_model(tiny_models / "llama" / "optimum" / "model.onnx")
    plan = llama_plan(tiny_models, "dipsvd:keep=0.3,align=1,packed=joint", EXACT)
    assert any(edit.site.role == "qkv" for edit in plan.of(LowRank))
    site = next(edit.site for edit in plan.of(LowRank) if edit.site.role == "qkv")
    key = Site(site.block, ("k",))
    wide = [replace(e, storage=replace(e.storage, bits=8)) if e.site == key else e for e in plan.of(QuantizeWeight)]
    with pytest.raises(PassRefused, match="stored in several ways"):
        transform(model, with_edits(plan, *wide), quantizer=quantize)
    less = [e for e in plan.of(QuantizeWeight) if e.site != key]
    with pytest.raises(PassRefused, match=r"holds block\.\d\d\.k too"):
        transform(model, with_edits(plan, *less), quantizer=quantize)


def with_edits(plan: Plan, *quantized: QuantizeWeight) -> Plan:
    edits = (*(e for e in plan.edits if not isinstance(e, QuantizeWeight)), *quantized)
    return replace(plan, document=replace(plan.document, edits=edits))


def test_a_plan_says_what_it_stores_and_needs_a_quantizer(tiny_models: Path, tmp_path: Path) -> None:
    plan = llama_plan(tiny_models, "quantize:bits=8,symmetric=false,rounding=nearest")
    plan.write(tmp_path)
    again = Plan.read(tmp_path)
    assert again.of(QuantizeWeight) == plan.of(QuantizeWeight)
    assert {edit.storage for edit in again.of(QuantizeWeight)} == {FewBits(8, 32, False, 4)}
    assert again.rounds_activations
    assert not llama_plan(tiny_models, EXACT).rounds_activations
    with pytest.raises(ValueError, match="a quantizer is needed"):
        passes_for(again)


def test_a_plan_tells_the_form_where_it_is_not_the_common_one(tiny_models: Path, tmp_path: Path) -> None:
    """Plans of older versions have no such key, and are written again as they were."""
    plan = llama_plan(tiny_models, EXACT)
    assert "form" not in json.dumps(json.loads(plan.document.text())["edits"])
    asked = EXACT.replace("accuracy=0", "form=qdq")
    other = llama_plan(tiny_models, asked)
    assert other.edits == in_form(plan, "qdq").edits
    assert other.rounds_activations
    other.write(tmp_path)
    again = Plan.read(tmp_path)
    assert again.edits == other.edits
    assert {edit.storage.form for edit in again.of(QuantizeWeight)} == {"qdq"}


def test_the_order_of_edits_is_law(tiny_models: Path) -> None:
    plan = llama_plan(tiny_models, "dipsvd:keep=0.7,align=1", EXACT)
    document = plan.document
    for edits, said in (
        ((*plan.of(QuantizeWeight), *plan.of(LowRank)), "low_rank comes before quantize_weight"),
        ((*plan.edits, plan.of(QuantizeWeight)[0]), "edited twice"),
    ):
        with pytest.raises(ValueError, match=said):
            PlanDocument(document.source, document.calibration, document.steps, {}, {}, edits)


@pytest.mark.parametrize(("methods", "said"), [
    (["quantize:bits=3"], "bits"), (["quantize:block_size=24"], "block_size"), (["quantize:keep=0.5"], "keep"),
    (["quantize:form=qdq,bits=2"], "reads 4 or 8 bits, not 2"), (["quantize:form=qdq,accuracy=4"], "no accuracy level"),
    (["quantize:form=qdq,embedding_bits=4"], "no rows of 4-bit"), (["quantize:form=onnx"], "form"),
    (["auto:of_int4=1,form=qdq,least_bits=2"], "reads 4 or 8 bits, not 2"),
    ([EXACT, "dipsvd:keep=0.8"], "replace weights come before those that store in few bits"),
])
def test_wrong_settings_are_told(methods: list[str], said: str, tiny_models: Path) -> None:
    with pytest.raises(ValueError, match=said):
        llama_plan(tiny_models, *methods)
