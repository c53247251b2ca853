"""`auto` and recovery the whole way: replaced weights, pairs, widths and folds, applied to a graph and proved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import foldrank
from foldrank.bundle.bundle import Bundle
from foldrank.edits.low_rank import LowRank
from foldrank.edits.replace_weight import ReplaceWeight
from foldrank.edits.slice_mlp import SliceMlp
from foldrank.planfile.plan import Plan

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dense(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    checkpoint = tiny_models / "llama" / "checkpoint"
    return foldrank.export(checkpoint, tmp_path_factory.mktemp("auto") / "dense", offline=True)


def proved(dense: Bundle, model: Path, folder: Path, method: str, **recovery: Any) -> Path:
    """As `compress` goes, but for the bench, and validated on fewer positions."""
    plan = foldrank.plan(model, methods=[method], calibration_tokens=4096, recover_tokens=8192, offline=True,
                         **recovery)
    small = foldrank.apply(dense, plan, folder)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("foldrank.verbs.proving_windows.MIN_POSITIONS", 2048)
        foldrank.validate(small, reference=dense, tokens=2048, threads=1, offline=True)
    return small.path


@pytest.fixture(scope="module")
def made(dense: Bundle, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return proved(dense, tiny_models / "llama" / "checkpoint", tmp_path_factory.mktemp("made") / "small",
                  "auto:keep=0.8,effort=low", recover="norms", recover_steps=6)


def passes(made: Path) -> None:
    graph = json.loads((made / "reports" / "validate.json").read_text())["graph"]
    assert graph["passed"] is True
    assert graph["max_relative_error"] <= 1e-5
    assert graph["argmax_agreement"] == 1.0


def test_a_recovered_plan_of_auto_passes_the_graph_proof(made: Path) -> None:
    passes(made)


def test_a_graph_holds_what_was_trained_of_narrower_mlps(
    dense: Bundle, tiny_models: Path, tmp_path: Path
) -> None:
    """Down in the slice, gate and up as weights of their own."""
    made = proved(dense, tiny_models / "llama" / "checkpoint", tmp_path / "small", "width:keep=0.8,align=4",
                  recover="sliced", recover_steps=12, recover_select="rs2")
    plan = Plan.read(made / "plan")
    settings = plan.document.steps[-1].settings
    assert (settings["kind"], settings["select"]) == ("sliced", "rs2")
    assert plan.document.predicted["recover.kl_after"] < plan.document.predicted["recover.kl_before"]
    assert {edit.site.role for edit in plan.of(ReplaceWeight)} == {"gate", "up"}
    passes(made)


def test_the_plan_says_what_was_done(made: Path) -> None:
    plan = Plan.read(made / "plan")
    assert [step.method for step in plan.document.steps] == ["auto", "recover"]
    assert plan.document.steps[0].keep.reached <= 0.8
    predicted = plan.document.predicted
    assert predicted["keep"] <= 0.8
    assert predicted["recover.kl_after"] <= predicted["recover.kl_before"]
    assert plan.of(LowRank) or plan.of(SliceMlp)
    assert plan.of(ReplaceWeight)
