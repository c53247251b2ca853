"""The CUDA provider computes what the plan says, in every family, and decodes the tokens of the other engines."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import foldrank
from foldrank.bundle.bundle import Bundle
from foldrank.runtime.decoding.decoder import OrtDecoder
from foldrank.runtime.decoding.genai import GenaiDecoder
from foldrank.runtime.decoding.resident import ResidentDecoder
from foldrank.runtime.providers.provider import Provider
from foldrank.verbs.bench import cost_table

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.usefixtures("cuda")]
CUDA = Provider("cuda")
PROMPT = np.array([[5, 17, 300, 41, 7, 900, 2, 33], [900, 2, 33, 33, 1024, 8, 1, 77]])


@pytest.fixture(scope="module")
def dense_fp16(specs_5m: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return foldrank.export(specs_5m, tmp_path_factory.mktemp("fp16") / "dense", dtype="fp16", provider="cuda",
                           offline=True)


@pytest.fixture(scope="module")
def small_fp16(specs_5m: Path, dense_fp16: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    plan = foldrank.plan(specs_5m, methods=["slm:keep=0.75", "dipsvd:keep=0.8,align=64"], device="cuda",
                         calibration_tokens=8192)
    return foldrank.apply(dense_fp16, plan, tmp_path_factory.mktemp("fp16") / "small")


def test_the_graph_proof_passes(dense_fp16: Bundle, small_fp16: Bundle) -> None:
    found = foldrank.validate(small_fp16, reference=dense_fp16, provider="cuda")
    assert found["graph"]["passed"] is True
    assert found["placement"].get("CPUExecutionProvider", 0) < found["placement"]["CUDAExecutionProvider"]


@pytest.mark.parametrize(("family", "dtype"), [
    *((family, dtype) for family in ("llama", "qwen2", "mistral", "gemma2") for dtype in ("fp16", "bf16")),
    ("gpt2", "fp16"), ("opt", "fp16"),  # of standard operators, which are not written in bf16
])
def test_every_core_family_is_computed_as_planned(tiny_models: Path, tmp_path: Path, family: str, dtype: str) -> None:
    checkpoint = shutil.copytree(tiny_models / family / "checkpoint", tmp_path / "checkpoint")
    dense = foldrank.export(checkpoint, tmp_path / "dense", dtype=dtype, provider="cuda", offline=True)
    methods = ["dipsvd:keep=0.8,align=2"]
    if family != "gemma2":  # its blocks are of two kinds in turn: none folds with its neighbour
        methods.insert(0, "slm:keep=0.75")
    plan = foldrank.plan(checkpoint, methods=methods, device="cuda", calibration_tokens=4096)
    small = foldrank.apply(dense, plan, tmp_path / "small")
    found = foldrank.validate(small, reference=dense, provider="cuda", tokens=1024)["graph"]
    print(family, dtype, {check["name"]: check["value"] for check in found["checks"]}, found["limit"])
    assert found["passed"] is True


def test_bf16_of_a_trained_model_passes_too(specs_5m: Path, tmp_path: Path) -> None:
    dense = foldrank.export(specs_5m, tmp_path / "dense", dtype="bf16", provider="cuda", offline=True)
    assert foldrank.validate(dense, reference=dense, provider="cuda", tokens=4096)["graph"]["passed"] is True


@pytest.mark.parametrize("which", ["dense_fp16", "small_fp16"])
@pytest.mark.parametrize("rows", [1, 2])
def test_all_engines_give_the_same_tokens(request: pytest.FixtureRequest, which: str, rows: int) -> None:
    path, prompt = request.getfixturevalue(which).path, PROMPT[:rows]
    expected = OrtDecoder.open(path, CUDA).generate(prompt, 24)
    graphed = ResidentDecoder.open(path, CUDA)
    assert graphed.graph, graphed.why_no_graph
    plain = ResidentDecoder.open(path, Provider("cuda", {"enable_cuda_graph": "0"}))
    assert not plain.graph
    for decoder in (graphed, plain):
        decoder.capacity = 64
        np.testing.assert_array_equal(decoder.generate(prompt, 24), expected)
    graphed.capacity = 48  # a second size is a second captured graph; then the first again
    np.testing.assert_array_equal(graphed.generate(prompt, 24), expected)
    graphed.capacity = 64
    np.testing.assert_array_equal(graphed.generate(prompt, 24), expected)
    genai = GenaiDecoder.open(path, CUDA, capacity=64)
    np.testing.assert_array_equal(genai.generate(prompt, 24), expected)


def test_a_bench_has_rows_bandwidth_memory_and_a_null_test(dense_fp16: Bundle, small_fp16: Bundle) -> None:
    found = foldrank.bench(small_fp16, baseline=dense_fp16, provider="cuda", quick=True)
    assert found["rows"]
    assert not found["method"]["unavailable"]
    low, high = found["null_test"]["ci95"]
    assert low <= found["null_test"]["ratio"] <= high
    assert found["environment"]["bandwidth_bytes_per_s"] > 1e11
    assert all(row["cuda_graph"] for row in found["rows"] if row["engine"] == "onnxruntime")
    assert all(entry["gpu_bytes"][0] > 1e8 for entry in found["memory"])
    assert all(entry["joules_per_token"] > 0 for entry in found["energy"])
    assert found["environment"]["gpu"]["name"]


def test_weights_in_few_bits_are_computed_as_planned(specs_5m: Path, dense_fp16: Bundle, tmp_path: Path) -> None:
    plan = foldrank.plan(specs_5m, methods=["slm:keep=0.75", "quantize:bits=4"], device="cuda", calibration_tokens=8192)
    small = foldrank.apply(dense_fp16, plan, tmp_path / "small")
    found = foldrank.validate(small, reference=dense_fp16, provider="cuda", tokens=4096)
    assert found["graph"]["passed"] is True
    assert found["placement"].get("CPUExecutionProvider", 0) < found["placement"]["CUDAExecutionProvider"]


def test_a_cost_table_is_of_this_card(specs_5m: Path, dense_fp16: Bundle, tmp_path: Path) -> None:
    table = cost_table(dense_fp16, tmp_path / "costs.json", provider="cuda")
    assert table.environment["provider"] == "CUDAExecutionProvider"
    assert {timing.shape for timing in table.timings} >= {(192, 320), (192, 192), (192, 1024), (512, 192)}
    plan = foldrank.plan(specs_5m, methods=[f"auto:effort=low,speedup=1.1,cost_table={tmp_path / 'costs.json'}"],
                         device="cuda", calibration_tokens=8192)
    assert plan.edits
