"""What windows of text open with is told where their number is: page, card, command line; a token 0 is one too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sample_reports import validation

from foldrank.cli import output
from foldrank.recipe import Recipe, read_recipe
from foldrank.reporting.section_quality import _text
from foldrank.reports import validate

REPORT = validate.FORM.parse(validation())


def _read(bos: int | None, **windows: int | None) -> str:
    """What is said of a report with such a text."""
    text = validate.HeldOut(name="a.txt", sha256="0" * 64, bos=bos)
    return _text(replace(REPORT, quality=replace(REPORT.quality, tokens=510, **windows), text=text))


@pytest.mark.parametrize("bos", [0, 4095])
def test_a_token_is_named(bos: int) -> None:
    told = _read(bos, windows=2, window=256)
    assert told == (f"On 510 held-out tokens of a.txt, in 2 windows of 256, each opening with the token {bos} (BOS), "
                    "which is not predicted.")
    assert output.opening(bos) == f", each window opening with the token {bos} (BOS)"


def test_nothing_is_said_where_there_is_none() -> None:
    assert _read(None, windows=None, window=None) == "On 510 held-out tokens of a.txt."
    assert output.opening(None) == ""


def test_a_recipe_holds_the_choice(tmp_path: Path) -> None:
    recipe = Recipe(methods=("slm:keep=0.9",), bos="never")
    recipe.save(tmp_path / "r.yaml")
    assert read_recipe(tmp_path / "r.yaml") == recipe
