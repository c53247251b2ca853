"""A plan made on a GPU is that of the CPU: same sites and folds, same ranks but for ties, same predicted size."""

from pathlib import Path

import pytest

import foldrank

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.usefixtures("cuda")]

METHODS = ["slm:keep=0.75", "dipsvd:keep=0.8", "dipsvd:keep=0.8,inputs=sequential,refit=true", "svd_llm:keep=0.8",
           "asvd:keep=0.8", "fwsvd:keep=0.8", "basis_sharing:keep=0.8", "sleb:keep=0.75", "shortened:keep=0.75"]


@pytest.mark.parametrize("method", METHODS)
def test_plans_agree(specs_5m: Path, method: str) -> None:
    here, there = (
        foldrank.plan(specs_5m, methods=[method], device=device, calibration_tokens=4096).document
        for device in ("cpu", "cuda")
    )
    assert here.predicted["keep"] == pytest.approx(there.predicted["keep"], abs=0.01)
    assert [type(edit) for edit in here.edits][:1] == [type(edit) for edit in there.edits][:1]
    ranks = [{str(edit.site): edit.rank for edit in found.edits if hasattr(edit, "rank")} for found in (here, there)]
    same = sum(ranks[0][site] == ranks[1].get(site) for site in ranks[0])
    assert same >= 0.9 * len(ranks[0])
    folds = [[(edit.into, edit.blocks) for edit in found.edits if hasattr(edit, "blocks")] for found in (here, there)]
    assert folds[0] == folds[1]


def test_auto_and_recovery_run_there(specs_5m: Path) -> None:
    plan = foldrank.plan(specs_5m, methods=["auto:keep=0.9,effort=low"], device="cuda",
                         calibration_tokens=4096, recover="factors", recover_steps=20)
    assert plan.document.predicted["keep"] <= 0.9
