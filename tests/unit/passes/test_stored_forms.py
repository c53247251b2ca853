"""Weights as exporters and quantisers store them: 4 bits, behind a DequantizeLinear, turned behind a Transpose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from anonymous import strip_names
from onnx import helper, numpy_helper
from synthetic import ROLES, Decoder, PlanMaker, Shape, random_decoder, run_onnx, worst, write_graph
from synthetic.standard import write_standard

from foldrank.errors import PassRefused
from foldrank.graph.invariants import check_file
from foldrank.graph.safe.load import load_model
from foldrank.graph.view.decoder import read_decoder
from foldrank.passes.pipeline import transform
from foldrank.passes.write import write_model
from foldrank.planfile.plan import Plan

IDS = np.random.default_rng(1).integers(0, 50, 11)
DECODER = random_decoder(Shape(width=64, mlp=96, biased=True), seed=1)


def applied(graph: Path, plan: Plan, folder: Path) -> Path:
    changed, _ = transform(load_model(graph), plan)
    folder.mkdir()
    write_model(changed, folder)
    return folder / "model.onnx"


def quantised(decoder: Decoder, folder: Path, form: str) -> Path:
    """The decoder's graph with every block's weights in 4 bits, by ONNX Runtime's own quantiser."""
    from onnxruntime.quantization import QuantFormat
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    folder.mkdir()
    write_graph(decoder, folder / "dense.onnx")
    model = onnx.load(folder / "dense.onnx")
    if form == "QDQ":
        next(o for o in model.opset_import if not o.domain).version = 21
    quantiser = MatMulNBitsQuantizer(
        model, block_size=16, nodes_to_exclude=["/lm_head/MatMul"], quant_format=QuantFormat[form], is_symmetric=True)
    quantiser.process()
    onnx.save(quantiser.model.model, folder / "model.onnx")
    return folder / "model.onnx"


@pytest.mark.parametrize("form", ["QOperator", "QDQ"])
def test_a_fold_that_copies_a_block_takes_its_quantised_weights_as_they_are(tmp_path: Path, form: str) -> None:
    """The oracle: the decoder with its blocks already copied, quantised in the same way."""
    plan = PlanMaker(DECODER, "0" * 64).fold((1, 2), {1: 0.0, 2: 1.0}, norms="bottom").plan()
    gains = {name: value for name, value in DECODER.blocks[1].items() if name.startswith("norm")}
    blocks = [DECODER.blocks[0], {**DECODER.blocks[2], **gains}, DECODER.blocks[3]]
    copied = replace(DECODER, shape=replace(DECODER.shape, blocks=3), blocks=blocks, windows=[-1] * 3)
    small = applied(quantised(DECODER, tmp_path / "dense", form), plan, tmp_path / "small")
    expected = run_onnx(quantised(copied, tmp_path / "copied", form), IDS)
    np.testing.assert_allclose(run_onnx(small, IDS), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", ["gemm", "gemm_turned"])
@pytest.mark.parametrize("named", [True, False])
def test_gemms_that_each_reshape_one_input_share_a_factor(tmp_path: Path, form: str, named: bool) -> None:
    """A biased linear over three axes as torch exports it: q, k and v bring the same value to the same two axes."""
    decoder = random_decoder(Shape(blocks=3, packed=False, biased=True, all_biased=True, form=form), seed=2)
    (tmp_path / "dense").mkdir()
    graph = tmp_path / "dense" / "model.onnx"
    write_standard(decoder, graph)
    if not named:
        graph = strip_names(graph, tmp_path / "bare" / "model.onnx")
    maker = PlanMaker(decoder, "0" * 64).low_rank("block.01.qkv", 9).low_rank("block.02.gate_up", 7)
    small = applied(graph, maker.plan(), tmp_path / "small")
    check_file(small, "written")
    assert worst(run_onnx(small, IDS), maker.expected().logits(IDS)) < 1e-5
    assert worst(run_onnx(small, IDS, (4, 1, 6)), maker.expected().logits(IDS)) < 1e-5


def test_linears_that_reshape_one_input_otherwise_read_different_inputs(tmp_path: Path) -> None:
    decoder = random_decoder(Shape(blocks=2, packed=False, biased=True, all_biased=True, form="gemm"), seed=2)
    write_standard(decoder, tmp_path / "model.onnx")
    model = load_model(tmp_path / "model.onnx")
    q, k = (read_decoder(model).blocks[1].by_role[role] for role in "qk")
    assert q.reads_as(k)
    shape = k.node.inputs[0].producer().inputs[1].producer()
    shape.attributes["value"] = ir.AttrTensor("value", ir.tensor([1, -1, 48]))
    assert not q.reads_as(k)


@pytest.mark.parametrize("form", ["QOperator", "QDQ"])
def test_quantised_weights_are_neither_merged_nor_factored(tmp_path: Path, form: str) -> None:
    model = load_model(quantised(DECODER, tmp_path / "dense", form))
    bare = read_decoder(load_model(strip_names(tmp_path / "dense" / "model.onnx", tmp_path / "bare" / "model.onnx")))
    assert (bare.dialect, [len(block.opaque) for block in bare.blocks]) == ("unnamed", [5] * 4)
    assert [len(block.quantised) for block in bare.blocks] == [len(b.quantised) for b in read_decoder(model).blocks]
    assert [len(block.opaque) for block in read_decoder(model).blocks] == [5] * 4
    with pytest.raises(PassRefused, match=r"block\.02\.up.*not plain matrices: .*up_proj"):
        transform(model, PlanMaker(DECODER, "0" * 64).low_rank("block.02.up", 5).plan())
    with pytest.raises(PassRefused, match=r"cannot be merged: .*MatMul"):
        transform(model, PlanMaker(DECODER, "0" * 64).fold((1, 2), {1: 0.5, 2: 0.5}).plan())


def turned(decoder: Decoder, folder: Path) -> Path:
    """Every block's weights stored [out, in], a Transpose before each MatMul."""
    folder.mkdir()
    write_graph(decoder, folder / "dense.onnx")
    model = onnx.load(folder / "dense.onnx")
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in list(model.graph.node):
        if node.op_type != "MatMul" or "layers" not in node.name:
            continue
        weight = weights[node.input[1]]
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).T.copy(), weight.name))
        name = node.name.replace("/MatMul", "/Transpose")
        transpose = helper.make_node("Transpose", [weight.name], [f"{name}/out"], name, perm=[1, 0])
        model.graph.node.insert(list(model.graph.node).index(node), transpose)
        node.input[1] = f"{name}/out"
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "split"])
def test_weights_stored_out_by_in(tmp_path: Path, packed: bool) -> None:
    """Every edit at once, on weights none of which is square: a forgotten turn has no form."""
    decoder = random_decoder(Shape(width=40, blocks=5, packed=packed, biased=True), seed=3)
    maker = PlanMaker(decoder, "0" * 64).fold((1, 2), {1: 0.5, 2: -0.25}, into=2, norms="top")
    for site, rank in (("block.00.q", 7), ("block.02.qkv", 11), ("block.02.down", 5), ("block.03.gate_up", 9)):
        maker.low_rank(site, rank)
    maker.replace("block.04.o").replace("block.04.k")
    dense = turned(decoder, tmp_path / "dense")
    assert all(linear.transposed for block in read_decoder(load_model(dense)).blocks for linear in block.linears)
    small = applied(dense, maker.plan(), tmp_path / "small")
    check_file(small, "written")
    assert worst(run_onnx(small, IDS), maker.expected().logits(IDS)) < 1e-4
    assert worst(run_onnx(small, IDS, (4, 1, 6)), maker.expected().logits(IDS)) < 1e-4


@pytest.mark.parametrize("role", ROLES)
def test_turned_weights_are_proved_by_content(tmp_path: Path, role: str) -> None:
    other = random_decoder(DECODER.shape, seed=9)
    model = load_model(turned(other, tmp_path / "dense"))
    with pytest.raises(Exception, match=rf"block\.01\.{role}: the graph holds other weights"):
        transform(model, PlanMaker(DECODER, "0" * 64).low_rank(f"block.01.{role}", 3).plan())
