"""Graphs that came with weights in few bits: adopted, folded, and proved against what those weights stand for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from nightly import NIGHTLY
from onnx import numpy_helper

import foldrank
from foldrank.bundle.bundle import Bundle
from foldrank.edits.fold_blocks import FoldBlocks
from foldrank.errors import BundleError, ExportError, NotWritable, PassRefused
from foldrank.graph.safe.load import load_model
from foldrank.graph.view.dequantized import matrix, rounded_linears
from foldrank.model.checkpoint import Checkpoint
from foldrank.planfile.plan import Plan
from foldrank.reports.validate import GraphProof, WeightsKept
from foldrank.runtime.decoding.decoder import OrtDecoder
from foldrank.runtime.proof.graph_proof import prove
from foldrank.runtime.providers.provider import resolve
from foldrank.verbs.export import export
from foldrank.verbs.inspect import inspect
from foldrank.verbs.reference import reference_of
from foldrank.verbs.rounded import GivenBits

pytest.importorskip("onnxruntime")
IDS = np.random.default_rng(2).integers(0, 250, (2, 48))


def quantised(
    graph: Path, out: Path, *, bits: int = 4, block_size: int = 32, symmetric: bool = True, form: str = "QOperator",
    accuracy: int | None = None,
) -> Path:
    """A graph with every MatMul of a weight in few bits, by ONNX Runtime's own quantiser."""
    from onnxruntime.quantization import QuantFormat
    from onnxruntime.quantization import matmul_nbits_quantizer as library

    model = onnx.load(graph)
    if form == "QDQ":
        next(o for o in model.opset_import if not o.domain).version = 21
    config = library.DefaultWeightOnlyQuantConfig(
        block_size=block_size, is_symmetric=symmetric, bits=bits, accuracy_level=accuracy,
        quant_format=QuantFormat[form])
    quantiser = library.MatMulNBitsQuantizer(model, algo_config=config)
    quantiser.process()
    out.mkdir(parents=True, exist_ok=True)
    onnx.save(quantiser.model.model, out / "model.onnx")
    return out


def adopted(tiny_models: Path, folder: Path, family: str = "llama", **how: Any) -> Bundle:
    tiny = tiny_models / family
    graph = quantised(tiny / "optimum" / "model.onnx", folder / "graph", **how)
    return export(tiny / "checkpoint", folder / "dense", exporter="optimum", graph=graph)


@pytest.fixture(scope="module")
def dense(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """4 bits, symmetric, blocks of 32, the head too, activations as they are."""
    return adopted(tiny_models, tmp_path_factory.mktemp("few"))


@pytest.fixture(scope="module")
def plan(tiny_models: Path) -> Plan:
    """Folds that copy a block other than the one whose place they take."""
    return foldrank.plan(tiny_models / "llama" / "checkpoint", methods=["slm:keep=0.7,rule=top"],
                         calibration_tokens=256)


@pytest.fixture
def folded(dense: Bundle, plan: Plan, tmp_path: Path) -> Bundle:
    return foldrank.apply(dense, plan, tmp_path / "folded")


def changed(bundle: Bundle, name: str, slot: int, change: Any) -> Bundle:
    """The bundle with what a node reads at a slot made another, as a faulty tool would leave it."""
    model = onnx.load(bundle.model)
    node = next(n for n in model.graph.node if name in n.name and n.op_type == "MatMulNBits")
    tensor = next(t for t in model.graph.initializer if t.name == node.input[slot])
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), tensor.name))
    onnx.save(model, bundle.model)
    return bundle


def proved(small: Bundle, dense: Bundle, tiny_models: Path) -> GraphProof:
    known = reference_of(small, Checkpoint.open(tiny_models / "llama" / "checkpoint"), dense)
    decoder = OrtDecoder.open(small.path, resolve("cpu"), threads=1)
    found = prove(decoder, known.logits, IDS, described=known.described, precision=known.precision)
    return replace(found, few_bits_kept=known.kept)


def test_an_adopted_graph_is_proved_against_the_weights_it_holds(dense: Bundle) -> None:
    proof = dense.manifest.export_proof
    assert proof is not None
    assert (proof["passed"], proof["reference"], proof["rounded_weights"]) == (True, "dequantised", 6 * 7 + 1)
    assert proof["measure"] == "max_relative_error"
    assert 0 < float(proof["value"] or 0) <= 1e-5
    assert 0.05 < float(proof["rounding"] or 0) < 0.15  # 0.09 measured
    assert 1e-4 < float(proof["checkpoint_kl_nats"] or 0) < 1e-2  # 6e-4 measured
    assert "reference: dequantised, 43 weights of few bits" in (dense.path / "README.md").read_text()
    assert inspect(dense.path)["sites"][0]["dtype"] == "int4"


@pytest.mark.parametrize(("family", "how", "precision", "weights"), [
    ("llama", {"bits": 8, "block_size": 128, "symmetric": False}, "max_relative_error", 43),
    ("qwen2", {"form": "QDQ", "symmetric": False, "block_size": 64}, "kl_nats", 36),
    pytest.param("gpt2", {"symmetric": False}, "max_relative_error", 1, marks=NIGHTLY),
    pytest.param("llama", {"accuracy": 4}, "kl_nats", 43, marks=NIGHTLY),
    pytest.param("llama", {"form": "QDQ", "block_size": 128}, "kl_nats", 43, marks=NIGHTLY),
], ids=["8-bits", "qdq", "asymmetric", "rounds-activations", "qdq-symmetric"])
def test_every_form_of_few_bits_is_read(
    tiny_models: Path, tmp_path: Path, family: str, how: dict[str, Any], precision: str, weights: int
) -> None:
    proof = adopted(tiny_models, tmp_path, family, **how).manifest.export_proof
    assert proof is not None
    assert (proof["passed"], proof["measure"], proof["rounded_weights"]) == (True, precision, weights)
    assert float(proof["value"] or 0) < 1e-5


@pytest.mark.parametrize("storage", [(4, 16, True), (4, 128, False), (8, 32, True), (8, 64, False)], ids=str)
def test_a_matrix_is_what_onnx_runtime_multiplies_by(storage: tuple[int, int, bool], tmp_path: Path) -> None:
    """75 inputs: the last block is not full, and one zero point is alone in its byte."""
    import onnxruntime
    from onnx import TensorProto, helper

    weight = np.random.default_rng(3).normal(size=(75, 21)).astype(np.float32)
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, n]) for name, n in (("x", 75), ("y", 21))]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"], "m")], "g", ports[:1], ports[1:],
                              [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "g.onnx")
    bits, block_size, symmetric = storage
    folder = quantised(tmp_path / "g.onnx", tmp_path / "q", bits=bits, block_size=block_size, symmetric=symmetric)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (found,) = session.run(None, {"x": np.eye(75, dtype=np.float32)})
    read = matrix(next(iter(load_model(folder / "model.onnx").graph)))
    np.testing.assert_allclose(read, found, rtol=1e-5, atol=1e-6)
    assert not np.allclose(read * 1.01, found, rtol=1e-5, atol=1e-6)


def test_a_fold_of_it_is_proved(folded: Bundle, dense: Bundle, plan: Plan, tiny_models: Path) -> None:
    found = proved(folded, dense, tiny_models)
    assert all(fold.coefficients[fold.blocks[-1]] == 1.0 for fold in plan.of(FoldBlocks))
    assert (found.passed, found.measure) == (True, "max_relative_error")
    assert found.max_relative_error is not None
    assert found.max_relative_error < 1e-5
    assert found.few_bits_kept == WeightsKept(compared=4 * 7 + 1, differ=[], passed=True)
    assert "dequantised: 43 weights of dense" in found.reference


def test_the_scales_of_a_weight_one_percent_off_fail_the_proof(
    folded: Bundle, dense: Bundle, plan: Plan, tiny_models: Path
) -> None:
    block = plan.of(FoldBlocks)[0].into
    name = f"layers.{block}/mlp/down_proj"
    found = proved(changed(folded, name, 2, lambda scales: scales * np.float32(1.01)), dense, tiny_models)
    assert found.passed is False
    assert found.few_bits_kept is not None
    assert (found.few_bits_kept.passed, found.few_bits_kept.differ) == (False, [f"block.{block:02d}.down"])


def _one(scales: np.ndarray) -> np.ndarray:
    scales.flat[3] *= np.float32(1.01)
    return scales


def test_a_single_scale_one_percent_off_is_seen(folded: Bundle, dense: Bundle, plan: Plan) -> None:
    """Too little for any logit to tell; the numbers themselves do."""
    block = plan.of(FoldBlocks)[0].into
    spoiled = changed(folded, f"layers.{block}/self_attn/o_proj", 2, _one)
    assert GivenBits.of(spoiled, load_model(spoiled.model), plan, dense).kept(plan) == WeightsKept(
        compared=29, differ=[f"block.{block:02d}.o"], passed=False)


def test_the_reference_must_be_of_the_graph_that_was_folded(folded: Bundle, dense_5m: Path, plan: Plan) -> None:
    with pytest.raises(BundleError, match=r"came with weights in few bits, .*give the dense bundle that the plan"):
        GivenBits.of(folded, load_model(folded.model), plan, Bundle.open(dense_5m))


def test_low_rank_over_few_bits_is_refused_by_name(dense: Bundle, tiny_models: Path, tmp_path: Path) -> None:
    made = foldrank.plan(tiny_models / "llama" / "checkpoint", methods=["dipsvd:keep=0.8"], calibration_tokens=256)
    with pytest.raises(PassRefused, match=r"block\.00\..*not plain matrices"):
        foldrank.apply(dense, made, tmp_path / "small")
    with pytest.raises(PassRefused, match=r"block\.00\.\w+: its graph came with 43 .*which dipsvd cannot replace"):
        foldrank.compress(tiny_models / "llama" / "checkpoint", tmp_path / "small", dense=dense.path,
                          methods=["shortgpt:keep=0.8", "dipsvd:keep=0.8"])
    assert not (tmp_path / "small").exists()


def test_weights_that_are_no_rounding_of_the_checkpoint_are_refused(tiny_models: Path, tmp_path: Path) -> None:
    tiny = tiny_models / "llama"
    graph = quantised(tiny / "optimum" / "model.onnx", tmp_path / "graph")
    model = onnx.load(graph / "model.onnx")
    first, second = (next(n for n in model.graph.node if f"layers.{b}/mlp/up_proj" in n.name) for b in (1, 2))
    first.input[1], second.input[1] = second.input[1], first.input[1]
    onnx.save(model, graph / "model.onnx")
    with pytest.raises(NotWritable, match=r"no rounding of the checkpoint's at block\.01\.up, block\.02\.up: 1\.\d"):
        export(tiny / "checkpoint", tmp_path / "out", exporter="optimum", graph=graph)


def test_the_builders_own_int4_graph_is_adopted_and_folded(tiny_models: Path, plan: Plan, tmp_path: Path) -> None:
    builder = pytest.importorskip("onnxruntime_genai.models.builder")
    checkpoint = tiny_models / "llama" / "checkpoint"
    how = ("", str(checkpoint), str(tmp_path / "int4"), "int4", "cpu", str(tmp_path / "cache"))
    builder.create_model(*how, **builder.parse_extra_options(*how, []))
    with pytest.raises(ValueError, match="which exporter made"):
        export(checkpoint, tmp_path / "dense", graph=tmp_path / "int4")
    made = export(checkpoint, tmp_path / "dense", exporter="genai", graph=tmp_path / "int4")
    proof = made.manifest.export_proof
    assert proof is not None
    assert (proof["passed"], proof["measure"], proof["rounded_weights"]) == (True, "kl_nats", 43)
    assert made.manifest.padding == ["left", "right"]
    small = foldrank.apply(made, plan, tmp_path / "small")
    found = proved(small, made, tiny_models)
    assert (found.passed, found.measure) == (True, "kl_nats")
    assert found.few_bits_kept is not None
    assert found.few_bits_kept.compared == 4 * 5 + 1


def test_a_dense_graph_of_the_builder_is_its_exporters_own(dense_5m: Path, specs_5m: Path, tmp_path: Path) -> None:
    assert rounded_linears(load_model(dense_5m / "model.onnx")) == []
    with pytest.raises(ExportError, match="is a graph with GroupQueryAttention; --exporter genai makes"):
        export(specs_5m, tmp_path / "out", exporter="genai", graph=dense_5m)
