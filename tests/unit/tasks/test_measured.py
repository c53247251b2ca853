"""Accuracies and their paired difference; what lm-eval's process answers, and what becomes of one that fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from foldrank import installed
from foldrank.errors import ProviderUnavailable, SourceError
from foldrank.reports.tasks import NEEDED
from foldrank.runtime.tasks import measured
from foldrank.runtime.tasks.items import Item

DENSE = [1.0] * 60 + [0.0] * 40


def found(bundle: list[float]) -> dict[str, object]:
    return {"scores": {"onnxruntime": {"dense": {"cloze": DENSE}, "bundle": {"cloze": bundle}}}, "missing": {}}


def test_accuracy_has_the_standard_error_of_a_share() -> None:
    both = measured.accuracy(DENSE)
    assert both.accuracy == 0.6
    assert both.standard_error == pytest.approx((0.6 * 0.4 / 99) ** 0.5, rel=1e-12)


def test_the_difference_is_taken_item_by_item() -> None:
    """Ten items lost of those that dense does: 0 lies outside. Ten lost and ten won: inside."""
    (lost,) = measured.rows(found([0.0] * 10 + [1.0] * 50 + [0.0] * 40), 0)
    assert lost.difference == pytest.approx(-0.1)
    assert -0.18 < lost.ci95[0] < lost.ci95[1] < -0.03
    (even,) = measured.rows(found([0.0] * 10 + [1.0] * 50 + [1.0] * 10 + [0.0] * 30), 0)
    assert even.difference == 0
    assert -0.12 < even.ci95[0] < 0 < even.ci95[1] < 0.12
    (same,) = measured.rows(found(DENSE), 0)
    assert same.ci95 == [0, 0]
    assert (same.items, same.metric, same.backend) == (100, "acc", "onnxruntime")


def test_a_process_that_fails_is_one_line_with_its_last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lm_eval_child.py").write_text("import sys; sys.exit('no such thing')")
    monkeypatch.setattr(measured.sys, "executable", str(_python(tmp_path)))
    with pytest.raises(SourceError, match=r"small: lm-eval failed: no such thing; leave --tasks out"):
        measured.run(Path("dense"), Path("small"), {"cloze": [Item("a", (" b", " c"), 0)]}, provider="cpu", context=64)


def test_without_lm_eval_the_extra_is_named_before_anything_else(
    dense_5m: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from foldrank.verbs.validate import validate

    monkeypatch.setattr(installed, "_installed", lambda name: name not in NEEDED)
    with pytest.raises(ProviderUnavailable, match=r"lm_eval.* is not installed; pip install 'foldrank\[tasks\]'"):
        validate(dense_5m, reference=dense_5m, tasks=True)


def _python(folder: Path) -> Path:
    """An interpreter that runs the stand-in whatever module it is told to run."""
    import sys

    script = folder / "python"
    script.write_text(f"#!/bin/sh\nexec {sys.executable} {folder / 'lm_eval_child.py'}\n")
    script.chmod(0o755)
    return script
