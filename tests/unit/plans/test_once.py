"""A matrix whose numbers a plan holds is not in it as floats, and the model it leaves is the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import foldrank
from foldrank.edits.base import WeightEdit
from foldrank.edits.storage import StorageEdit
from foldrank.model.checkpoint import Checkpoint
from foldrank.plans.bits.once import told_once
from foldrank.plans.compose import make_plan
from foldrank.plans.models.decoder import load_decoder
from foldrank.plans.simulate import apply_edits


@pytest.mark.parametrize("method", ["auto:of_int4=0.9,effort=low,block_size=16,width_align=16", "dipsvd:keep=0.9"])
def test_floats_that_no_one_reads_leave_and_nothing_changes(
    tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setenv("FOLDRANK_NO_CACHE", "1")
    checkpoint = Checkpoint.open(tiny_models / "llama" / "checkpoint")
    plan = make_plan(checkpoint, [method], calibration_tokens=2048)
    once = told_once(plan)
    numbers = {part for edit in once.edits if isinstance(edit, StorageEdit) and edit.held
               for part in edit.touch.writes}
    assert not numbers & {part for edit in once.edits if isinstance(edit, WeightEdit) and edit.ranked is None
                          for part in edit.touch.writes}
    assert set(once.arrays) == {name for edit in once.edits for name in edit.arrays()}
    if not numbers:
        assert once is plan
        return
    assert sum(array.nbytes for array in once.arrays.values()) < 0.5 * sum(a.nbytes for a in plan.arrays.values())
    decoder, ids = load_decoder(checkpoint), np.arange(24).reshape(1, 24)
    before, after = (apply_edits(p.edits, decoder, p.arrays) for p in (plan, once))
    assert np.array_equal(before.logits(before.forward(ids)).detach(), after.logits(after.forward(ids)).detach())
    (tmp_path / "plan").mkdir()
    once.write(tmp_path / "plan")
    dense = foldrank.export(checkpoint.path, tmp_path / "dense", exporter="genai")
    small = foldrank.apply(dense, tmp_path / "plan", tmp_path / "small")
    monkeypatch.setattr("foldrank.verbs.proving_windows.MIN_POSITIONS", 1024)
    assert foldrank.validate(small, reference=dense, model=checkpoint.path, tokens=1024)["graph"]["passed"]
