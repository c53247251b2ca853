"""Laws over random decoders of every exporter's hand: whatever a plan asks of a decoder, the graph computes it."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from hypothesis import given
from hypothesis import strategies as st
from synthetic import PlanMaker, run_onnx, widened, worst
from synthetic.decoders import NORMS
from synthetic.strategies import Written, law, planned, written

from foldrank.graph.invariants import check_file
from foldrank.graph.safe.load import load_model
from foldrank.graph.view.decoder import read_decoder
from foldrank.passes.pipeline import transform
from foldrank.passes.write import write_model
from foldrank.planfile.plan import Plan


def changed(source: Path, plan: Plan, folder: Path) -> Path:
    """The written graph after the plan, checked; opset, IR and the declared shapes are right."""
    dense = load_model(source)
    model, _ = transform(dense, plan)
    folder.mkdir()
    write_model(model, folder)
    check_file(folder / "model.onnx", "written")
    small = load_model(folder / "model.onnx")
    assert (small.ir_version, small.graph.opset_imports) == (dense.ir_version, dense.graph.opset_imports)
    assert stale_values(folder / "model.onnx") == []
    assert [name for name, value in small.graph.initializers.items() if not value.uses()] == []
    return folder / "model.onnx"


def stale_values(path: Path) -> list[str]:
    """Values whose declared type or shape is not what ONNX infers afresh, and declarations of values that are gone."""
    model = onnx.load(path, load_external_data=False)
    declared = {v.name: v.type.tensor_type for v in model.graph.value_info}
    made = {name for node in model.graph.node for name in node.output} | {t.name for t in model.graph.initializer}
    del model.graph.value_info[:]
    inferred = {v.name: v.type.tensor_type for v in onnx.shape_inference.infer_shapes(model).graph.value_info}
    return [name for name, kind in declared.items() if name not in made
            or (name in inferred and not _agree(kind, inferred[name]))]


def _agree(a: onnx.TypeProto.Tensor, b: onnx.TypeProto.Tensor) -> bool:
    if a.elem_type != b.elem_type or not (a.HasField("shape") and b.HasField("shape")):
        return a.elem_type == b.elem_type
    pairs = zip(a.shape.dim, b.shape.dim, strict=False)
    numbers = all(x.dim_value == y.dim_value for x, y in pairs if x.HasField("dim_value") and y.HasField("dim_value"))
    return numbers and len(a.shape.dim) == len(b.shape.dim)


def contents(model: ir.Model) -> Counter[str]:
    """Digests of all initializers."""
    tensors = (v.const_value for v in model.graph.initializers.values())
    return Counter(hashlib.sha256(t.tobytes() + str(tuple(t.shape)).encode()).hexdigest() for t in tensors)


@law(16)
@given(planned(), st.integers(0, 9))
def test_graph_computes_what_the_plan_says_prefilled_and_cached(case: tuple[Written, PlanMaker], seed: int) -> None:
    source, maker = case
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = changed(source.write(folder / "dense"), maker.plan(), folder / "small")
        wide = widened(small, folder / "wide.onnx")
        ids = np.random.default_rng(seed).integers(0, maker.decoder.shape.vocab, 11)
        expected = maker.expected().logits(ids)
        if np.abs(expected).max() < 1e-3:  # coefficients that cancel everything leave nothing to compare
            return
        assert worst(run_onnx(wide, ids), expected) < 1e-4
        assert worst(run_onnx(wide, ids, (4, 1, 6)), expected) < 1e-4


@law(12)
@given(written())
def test_sites_cover_every_weight_once_and_boundaries_correspond(source: Written) -> None:
    shape = source.decoder.shape
    with tempfile.TemporaryDirectory() as folder:
        decoder = read_decoder(load_model(source.write(Path(folder))))
        assert decoder.dialect == ("unnamed" if source.style.startswith("unnamed") else source.style)
        assert [block.number for block in decoder.blocks] == list(range(shape.blocks))
        assert (decoder.heads, decoder.kv_heads, decoder.head_size) == (shape.heads, shape.kv_heads, shape.head_size)
        assert decoder.tied == shape.tied
        for block, weights in zip(decoder.blocks, source.decoder.blocks, strict=True):
            roles = [role for linear in block.linears for role in linear.roles]
            assert sorted(roles) == sorted(shape.roles)
            for role in roles:
                linear = block.by_role[role]
                stored = linear.tensor.numpy().T if linear.transposed else linear.tensor.numpy()
                np.testing.assert_array_equal(stored[:, linear.columns(role)], weights[role])
                assert bool(linear.biases) == (role in shape.biases)
            assert (len(block.norms), block.unknown, block.opaque) == (NORMS[shape.norms] + 2 * shape.qk_norm, [], ())
            assert block.kind == decoder.blocks[0].kind
        crossing = 2 if source.style.endswith("genai") else 1
        assert [len(values) for values in decoder.boundaries] == [1] + [crossing] * shape.blocks


@law(6)
@given(written())
def test_an_empty_plan_leaves_every_initializer(source: Written) -> None:
    with tempfile.TemporaryDirectory() as name:
        dense = source.write(Path(name) / "dense")
        before = load_model(dense)
        after = load_model(changed(dense, PlanMaker(source.decoder, "0" * 64).plan(), Path(name) / "small"))
        assert set(after.graph.initializers) == set(before.graph.initializers)
        assert contents(after) == contents(before)
        assert [n.op_type for n in after.graph] == [n.op_type for n in before.graph]


@law(6)
@given(planned(), st.randoms(use_true_random=False))
def test_edits_of_disjoint_sites_commute(case: tuple[Written, PlanMaker], random: object) -> None:
    source, maker = case
    plan = maker.plan()
    shuffled = []
    for alike in map(list, (maker.folds, maker.edits, maker.added)):
        random.shuffle(alike)  # type: ignore[attr-defined]
        shuffled += alike
    other = Plan(replace(plan.document, edits=tuple(shuffled)), plan.arrays)
    with tempfile.TemporaryDirectory() as name:
        dense = source.write(Path(name))
        one, two = (transform(load_model(dense), p)[0] for p in (plan, other))
        assert contents(one) == contents(two)
        assert [n.op_type for n in one.graph] == [n.op_type for n in two.graph]
