"""On a machine with an NVIDIA GPU and onnxruntime-gpu: the CUDA provider computes what the plan says.

Skipped elsewhere. Never yet run: see "What is not done yet" in README.md.
"""

from pathlib import Path

import pytest

import foldrank
from foldrank.errors import ProviderUnavailable
from foldrank.runtime.providers import resolve

pytestmark = [pytest.mark.gpu, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def cuda() -> None:
    try:
        resolve("cuda")
    except ProviderUnavailable as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_the_graph_proof_passes_on_cuda(specs_5m: Path, tmp_path: Path, dtype: str) -> None:
    dense = foldrank.export(specs_5m, tmp_path / "dense", dtype=dtype, provider="cuda")
    plan = foldrank.plan(specs_5m, methods=["slm:keep=0.75", "dipsvd:keep=0.8,align=64"])
    small = foldrank.apply(dense, plan, tmp_path / "small")
    found = foldrank.validate(small, reference=dense, provider="cuda")
    assert found["graph"]["passed"] is True
    assert found["placement"].get("CPUExecutionProvider", 0) < found["placement"]["CUDAExecutionProvider"]


def test_a_bench_on_cuda_has_rows_and_a_null_test(specs_5m: Path, tmp_path: Path) -> None:
    dense = foldrank.export(specs_5m, tmp_path / "dense", dtype="fp16", provider="cuda")
    plan = foldrank.plan(specs_5m, methods=["slm:keep=0.75"])
    small = foldrank.apply(dense, plan, tmp_path / "small")
    found = foldrank.bench(small, baseline=dense, provider="cuda", quick=True)
    assert found["rows"]
    low, high = found["null_test"]["ci95"]
    assert low <= found["null_test"]["ratio"] <= high
