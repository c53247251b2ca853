"""bench on real bundles: the report is whole, honest about its machine, and its gate can fail."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from contract import faults

from foldrank.benchmarks.speed_plans import fold_plan
from foldrank.benchmarks.workload import QUICK, Workload
from foldrank.bundle.bundle import Bundle
from foldrank.model.checkpoint import Checkpoint
from foldrank.verbs.apply import apply
from foldrank.verbs.bench import bench

pytestmark = pytest.mark.slow
ASKED = 1000.0


@pytest.fixture(scope="module")
def folded(dense_5m: Path, specs_5m: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan = fold_plan(Checkpoint.open(specs_5m, offline=True), 4)
    return apply(dense_5m, plan, tmp_path_factory.mktemp("bench") / "folded").path


@pytest.fixture(scope="module")
def report(folded: Path, dense_5m: Path) -> dict[str, Any]:
    """Two short prompts, the workers started once: what is asked here does not hang on how much is measured."""
    short = replace(QUICK, workloads=(Workload(16, 1, 4), Workload(32, 1, 4)), launches=1, reading_s=0.01)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("foldrank.verbs.bench.QUICK", short)
        return bench(folded, baseline=dense_5m, quick=True, min_speedup=ASKED)


def test_the_report_is_in_the_bundle_and_the_bundle_is_whole(folded: Path, report: dict[str, Any]) -> None:
    assert Bundle.open(folded).json("reports/bench.json") == json.loads(json.dumps(report))


@pytest.mark.usefixtures("report")
def test_the_bundle_has_what_others_rely_on(folded: Path) -> None:
    assert faults(folded) == []


def test_every_engine_bundle_and_workload_has_a_row_with_its_samples(report: dict[str, Any]) -> None:
    found = {(row["engine"], row["bundle"], row["prompt_tokens"]) for row in report["rows"]}
    assert len(found) == len(report["rows"]) == 2 * 2 * 2
    for row in report["rows"]:
        assert len(row["samples"]["ttft_ms"]) == len(row["samples"]["tpot_ms"]) >= 20
        assert row["ttft_ms"] > 0
        assert row["peak_rss_bytes"] > 20 << 20
        assert row["bandwidth_use"] > 0


def test_ideal_is_that_of_eight_blocks_of_twelve(report: dict[str, Any]) -> None:
    block = 192 * (192 + 2 * 64) + 192 * 192 + 3 * 192 * 512 + 2 * 192
    rest = 192 * 4096 + 192
    for entry in report["speedups"]:
        assert entry["ideal"] == pytest.approx((12 * block + rest) / (8 * block + rest), rel=0.03)
        assert entry["realised_over_ideal"] == pytest.approx(entry["ratio"] / entry["ideal"])


def test_a_gate_that_cannot_be_met_fails_the_verdict(report: dict[str, Any]) -> None:
    assert report["verdict"] == "fail"
    assert {gate["name"]: gate["passed"] for gate in report["gates"]}["min_speedup genai"] is False


def test_fewer_blocks_run_on_fewer_nodes(report: dict[str, Any]) -> None:
    placed = {row["bundle"]: row["placement"] for row in report["rows"] if row["engine"] == "onnxruntime"}
    assert set(placed["dense"]) == {"CPUExecutionProvider"}
    assert placed["compressed"]["CPUExecutionProvider"] < placed["dense"]["CPUExecutionProvider"]
