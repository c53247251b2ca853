"""`auto` and recovery the whole way: plans of replaced weights, pairs and folds, applied to a graph and proved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from foldrank.edits.low_rank import LowRank
from foldrank.edits.replace_weight import ReplaceWeight
from foldrank.planfile import Plan

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(root: Path, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("auto") / "small"
    subprocess.run(
        [sys.executable, str(root / "tests" / "short_bench.py"), "compress", str(shared / "models" / "specs-300k"),
         "--method", "auto:keep=0.8,effort=low", "--calibration-tokens", "4096",
         "--recover", "norms", "--recover-tokens", "8192", "--recover-steps", "6",
         "-o", str(folder), "--json"],
        check=True, capture_output=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}, timeout=540,
    )
    return folder


def test_a_recovered_plan_of_auto_passes_the_graph_proof(made: Path) -> None:
    graph = json.loads((made / "reports" / "validate.json").read_text())["graph"]
    assert graph["passed"] is True
    assert graph["max_relative_error"] <= 1e-4
    assert graph["argmax_agreement"] == 1.0


def test_the_plan_says_what_was_done(made: Path) -> None:
    plan = Plan.read(made / "plan")
    assert [step.method for step in plan.document.steps] == ["auto", "recover"]
    assert plan.document.steps[0].keep.reached <= 0.8
    predicted = plan.document.predicted
    assert predicted["keep"] <= 0.8
    assert predicted["recover.kl_after"] <= predicted["recover.kl_before"]
    assert plan.of(LowRank)
    assert plan.of(ReplaceWeight)
