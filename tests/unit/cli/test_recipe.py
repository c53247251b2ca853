"""Recipes: what is saved reads back, and nothing but plain YAML with known keys is read."""

from pathlib import Path

import pytest

from foldrank.errors import PlanFormatError, SourceError
from foldrank.recipe import Recipe, read_recipe


def test_a_saved_recipe_reads_back(tmp_path: Path) -> None:
    recipe = Recipe(methods=("slm:keep=0.75", "dipsvd:keep=0.8"), calibration="/text.txt", seed=7,
                    max_perplexity_increase=0.05)
    recipe.save(tmp_path / "r.yaml")
    assert read_recipe(tmp_path / "r.yaml") == recipe


def test_paths_in_a_recipe_are_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("methods: ['slm:keep=0.5']\ncalibration: text.txt\ntext: /held-out.txt\n")
    recipe = read_recipe(tmp_path / "r.yaml")
    assert recipe.calibration == str(tmp_path / "text.txt")
    assert recipe.text == "/held-out.txt"


@pytest.mark.parametrize("text", [
    "methods: &m ['slm']\ntext: *m\n", "methods: !!python/object/apply:os.system ['true']\n", "method: ['slm']\n",
    "methods: {", "- a list\n", "seed: many\n", "[" * 5000,
])
def test_anything_else_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(PlanFormatError, match=r"r\.yaml"):
        read_recipe(tmp_path / "r.yaml")


def test_a_missing_recipe_is_a_source_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        read_recipe(tmp_path / "r.yaml")
