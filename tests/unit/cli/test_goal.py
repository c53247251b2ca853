"""Goals in the place of methods."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

import foldrank
from foldrank.cli import plans
from foldrank.plans.request import parse
from foldrank.recipe import Recipe
from foldrank.verbs.goal import GOALS, TABLE, candidates, choice


@pytest.mark.parametrize("provider", ["cpu", "cuda", "tensorrt"])
def test_every_goal_is_a_method_that_its_provider_can_run(provider: str) -> None:
    for goal in GOALS:
        best, *quicker = (parse(method.replace(TABLE, "costs.json")) for method in candidates(goal, provider))
        assert best.method.name == "auto"
        assert best.settings.stores == (provider != "tensorrt")
        assert (best.settings.cost_table is not None) == (goal == "fast")
        few = goal == "balanced" and best.settings.stores
        assert [request.method.name for request in quicker] == ["quantize"] * few


def test_what_fits_into_the_time_is_taken_and_recovery_has_the_rest() -> None:
    """A pass of 60 s: `auto` takes 21 minutes with judging, `quantize` 8."""
    free = choice("balanced", "cpu", pass_s=60)
    assert (free.method, free.recover, free.minutes) == ("auto:of_int4=1,effort=low", "scales", 15)
    for left_min, name, minutes in ((40, "auto", 15), (30, "auto", 9), (21.2, "auto", None), (18, "quantize", 10),
                                    (8, "quantize", None), (5, "quantize", None)):
        found = choice("balanced", "cpu", pass_s=60, left_s=60 * left_min)
        assert found.method.startswith(name)
        assert (found.recover, found.minutes) == ("scales" if minutes else None, minutes)
        assert ("auto:of_int4=1,effort=low would take about 21 min" in found.told) == (name == "quantize")
        assert ("more than is left" in found.told) == (left_min < 8)
    assert choice("balanced", "tensorrt", pass_s=60).recover is None


def test_a_goal_that_there_is_not_and_one_beside_methods_are_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="known are small, balanced, fast"):
        candidates("tiny", "cpu")
    with pytest.raises(ValueError, match="give one of the two"):
        foldrank.compress(tmp_path, tmp_path / "out", goal="small", methods=["svd:keep=0.9"])
    with pytest.raises(ValueError, match="beside a goal"):
        foldrank.compress(tmp_path, tmp_path / "out", methods=["svd:keep=0.9"], minutes=10)


def test_what_is_typed_takes_the_place_of_the_recipes(tmp_path: Path) -> None:
    for written, typed in ((Recipe(methods=("svd:keep=0.9",)), {"goal": "small"}),
                           (Recipe(goal="fast"), {"methods": ("svd:keep=0.8",)})):
        path = tmp_path / "recipe.yaml"
        written.save(path)
        chosen = plans.choose(path, None, **typed)
        assert {name: getattr(chosen, name) for name in typed} == typed
        assert not chosen.methods or not chosen.goal
    with pytest.raises(click.UsageError), click.Context(click.Command("plan")):
        plans.choose(None, None)
