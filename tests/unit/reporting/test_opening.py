"""What windows of text open with is told where their number is: page, card, command line; a token 0 is one too."""

from __future__ import annotations

from pathlib import Path

import pytest

from foldrank.cli import output
from foldrank.recipe import Recipe, read_recipe
from foldrank.reporting.section_quality import _text


@pytest.mark.parametrize("bos", [0, 4095])
def test_a_token_is_named(bos: int) -> None:
    quality = {"tokens": 510, "windows": 2, "window": 256}
    told = _text({"quality": quality, "text": {"name": "a.txt", "bos": bos}})
    assert told == (f"On 510 held-out tokens of a.txt, in 2 windows of 256, each opening with the token {bos} (BOS), "
                    "which is not predicted.")
    assert output.opening(bos) == f", each window opening with the token {bos} (BOS)"


def test_nothing_is_said_where_there_is_none() -> None:
    for text in ({"name": "a.txt", "bos": None}, {"name": "a.txt"}):
        assert _text({"quality": {"tokens": 510}, "text": text}) == "On 510 held-out tokens of a.txt."
    assert output.opening(None) == ""


def test_a_recipe_holds_the_choice(tmp_path: Path) -> None:
    recipe = Recipe(methods=("slm:keep=0.9",), bos="never")
    recipe.save(tmp_path / "r.yaml")
    assert read_recipe(tmp_path / "r.yaml") == recipe
