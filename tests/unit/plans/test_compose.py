"""From a checkpoint to a plan on disk and back, and the reference that applies it; real checkpoints."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foldrank.edits.fold_blocks import FoldBlocks
from foldrank.edits.low_rank import LowRank
from foldrank.errors import PlanMismatch, SourceError
from foldrank.model.checkpoint import Checkpoint
from foldrank.planfile.plan import Plan
from foldrank.plans.calibration import calibration_windows, usable
from foldrank.plans.compose import make_plan, parse_all, plan_of, run_all
from foldrank.plans.models.decoder import Decoder, load_decoder
from foldrank.plans.reference import reference_model
from foldrank.sites import ROLES
from foldrank.verbs.plan import plan as plan_verb

METHODS = ["slm:keep=0.75,windows=2,tokens=64", "dipsvd:keep=0.8"]


@pytest.fixture(scope="session")
def made(specs_5m: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A plan of the bundled model from little text, written and read back."""
    folder = tmp_path_factory.mktemp("plans") / "plan"
    plan_verb(specs_5m, folder, methods=METHODS, calibration_tokens=1024)
    return Plan.read(folder)


@pytest.fixture(scope="session")
def checkpoint(specs_5m: Path) -> Checkpoint:
    return Checkpoint.open(specs_5m)


@pytest.fixture(scope="session")
def again(checkpoint: Checkpoint) -> tuple[Decoder, Plan]:
    """The same a second time: the decoder as the planner left it, and the plan."""
    decoder = load_decoder(checkpoint)
    windows = usable(decoder, calibration_windows(checkpoint, None, 1024, 0))
    runs = run_all(decoder, parse_all(METHODS), windows.ids, 0, opening=windows.opening)
    return runs[-1].result.decoder, plan_of(checkpoint, decoder, windows, runs)


def test_plan_records_what_was_asked_reached_and_predicted(made: Plan, checkpoint: Checkpoint) -> None:
    document = made.document
    assert [(s.method, s.keep.asked) for s in document.steps] == [("slm", 0.75), ("dipsvd", 0.8)]
    assert document.steps[0].keep.reached == 0.75
    assert 0.79 < document.steps[1].keep.reached <= 0.8
    assert document.predicted["keep"] == pytest.approx(0.75 * document.steps[1].keep.reached)
    assert document.predicted["parameters_before"] == 5_509_824
    assert document.predicted["blocks_after"] == 9 == len(made.surviving_blocks)
    assert document.source.config_sha256 == checkpoint.config_sha256
    assert document.source.architecture == "LlamaForCausalLM"
    assert document.calibration is not None
    assert document.calibration.tokens == 1024
    folded = {b for f in made.of(FoldBlocks) for b in f.blocks}
    assert set(document.source.weights) == {f"block.{b:02d}.{r}" for b in folded for r in ROLES}


def test_diagnostics_are_what_the_report_draws(made: Plan) -> None:
    found = made.diagnostics
    assert found is not None
    matrix = np.array(found["similarity"]["matrix"])
    assert matrix.shape == (12, 12)
    np.testing.assert_allclose(matrix, matrix.T)
    np.testing.assert_allclose(np.diag(matrix), 1.0)
    folds = made.of(FoldBlocks)
    assert {(w["low"], w["high"]) for w in found["windows"]} == {(f.blocks[0], f.blocks[-1]) for f in folds}
    assert all(len(s["values"]) == len(s["ranks"]) <= 64 for s in found["spectra"])
    ranks = {str(pair.site): pair.rank for pair in made.of(LowRank)}
    assert {s["site"]: s["rank"] for s in found["spectra"] if s["rank"]} == ranks
    assert {"low", "high", "similarity", "accepted"} == set(found["slm_trace"][0])


def test_reference_computes_what_the_planner_simulated(
    made: Plan, again: tuple[Decoder, Plan], checkpoint: Checkpoint, ids: np.ndarray
) -> None:
    simulated, _ = again
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-4)):
        model = reference_model(checkpoint, made, dtype)
        with torch.no_grad():
            wanted = model(input_ids=torch.from_numpy(ids)).logits
            found = simulated.logits(simulated.forward(ids))
        error = float((wanted.float() - found).abs().max() / wanted.abs().max())
        assert error < tolerance
    dense = reference_model(checkpoint, None)(input_ids=torch.from_numpy(ids)).logits
    assert not torch.allclose(found, dense, atol=0.1)


def test_reference_decodes_with_its_cache_as_without(made: Plan, checkpoint: Checkpoint, ids: np.ndarray) -> None:
    model: Any = reference_model(checkpoint, made)
    tokens = torch.from_numpy(ids[:2])
    with torch.no_grad():
        whole = model(input_ids=tokens).logits
        state = model(input_ids=tokens[:, :10], use_cache=True)
        parts = [state.logits]
        for position in range(10, tokens.shape[1]):
            token = tokens[:, position : position + 1]
            state = model(input_ids=token, past_key_values=state.past_key_values, use_cache=True)
            parts.append(state.logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-4)
    assert len(state.past_key_values.layers) == 9
    assert model.config.num_hidden_layers == 9


def test_reference_refuses_a_plan_of_another_model(made: Plan, tiny_models: Path, checkpoint: Checkpoint) -> None:
    with pytest.raises(PlanMismatch, match="another sha256"):
        reference_model(Checkpoint.open(tiny_models / "llama" / "checkpoint"), made)


def test_methods_see_the_model_as_left_before_and_folds_come_first(made: Plan) -> None:
    kinds = [type(e) for e in made.edits]
    assert kinds == sorted(kinds, key=[FoldBlocks, LowRank].index)
    assert {e.site.block for e in made.of(LowRank)} <= set(made.surviving_blocks)


def test_plan_is_the_same_twice(made: Plan, again: tuple[Decoder, Plan]) -> None:
    _, plan = again
    assert plan.edits == made.edits
    for name, array in plan.arrays.items():
        np.testing.assert_allclose(array, made.arrays[name], atol=1e-5)


def test_keep_one_plans_nothing(checkpoint: Checkpoint) -> None:
    plan = make_plan(checkpoint, ["slm:keep=1", "dipsvd:keep=1"], calibration_tokens=1024)
    assert plan.edits == ()
    assert plan.document.predicted["parameters_after"] == plan.document.predicted["parameters_before"]


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "gpt2", "opt"])
def test_every_known_family_plans_and_its_reference_runs(
    tiny_models: Path, family: str, tmp_path: Path, ids: np.ndarray
) -> None:
    folder = tiny_models / family / "checkpoint"
    methods = ["slm:keep=0.8,rule=mean", "dipsvd:keep=0.7,align=4,packed=split"]
    plan = plan_verb(folder, tmp_path / "plan", methods=methods, calibration_tokens=2048)
    assert plan.document.calibration is not None
    assert plan.document.calibration.window == 128
    model = reference_model(Checkpoint.open(folder), Plan.read(tmp_path / "plan"))
    assert torch.isfinite(model(input_ids=torch.from_numpy(ids)).logits).all()


def test_kinds_that_alternate_are_refused_by_a_fold_and_nothing_is_left(tiny_models: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is of another kind"):
        plan_verb(tiny_models / "gemma2" / "checkpoint", tmp_path / "plan", methods=["slm:keep=0.7"])
    assert list(tmp_path.iterdir()) == []


def test_short_calibration_text_is_refused_with_the_numbers(specs_5m: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("only a few words")
    with pytest.raises(SourceError, match=r"short.txt: has \d+ tokens, one window needs 512"):
        plan_verb(specs_5m, tmp_path / "plan", methods=["dipsvd:keep=0.7"], calibration=tmp_path / "short.txt")
    assert not (tmp_path / "plan").exists()


def test_wrong_settings_are_found_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep"):
        plan_verb(tmp_path / "nowhere", tmp_path / "plan", methods=["slm:keep=2"])


def test_an_output_that_exists_is_refused_early(specs_5m: Path, tmp_path: Path) -> None:
    (tmp_path / "plan").mkdir()
    with pytest.raises(SourceError, match="exists already"):
        plan_verb(specs_5m, tmp_path / "plan", methods=["slm:keep=0.9"])


@pytest.mark.parametrize("cached", [True, False])
def test_a_disk_that_fills_up_is_one_clear_error_and_leaves_nothing(
    tiny_models: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch,
    cached: bool,
) -> None:
    monkeypatch.setenv("FOLDRANK_NO_CACHE", "" if cached else "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(SourceError, match="cannot be written"):
            plan_verb(tiny_models / "llama" / "checkpoint", tmp_path / "plan", methods=["dipsvd:keep=0.7"],
                      calibration_tokens=1024)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
