"""`auto` and recovery the whole way: replaced weights, pairs, widths and folds, applied to a graph and proved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import foldrank
from foldrank.edits.low_rank import LowRank
from foldrank.edits.replace_weight import ReplaceWeight
from foldrank.edits.slice_mlp import SliceMlp
from foldrank.planfile.plan import Plan

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `compress` goes, but for the bench, and validated on fewer positions."""
    folder, model = tmp_path_factory.mktemp("auto"), tiny_models / "llama" / "checkpoint"
    dense = foldrank.export(model, folder / "dense", offline=True)
    plan = foldrank.plan(model, methods=["auto:keep=0.8,effort=low"], calibration_tokens=4096, recover="norms",
                         recover_tokens=8192, recover_steps=6, offline=True)
    small = foldrank.apply(dense, plan, folder / "small")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("foldrank.verbs.validate.MIN_POSITIONS", 2048)
        foldrank.validate(small, reference=dense, tokens=2048, threads=1, offline=True)
    return small.path


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
    assert plan.of(LowRank) or plan.of(SliceMlp)
    assert plan.of(ReplaceWeight)
