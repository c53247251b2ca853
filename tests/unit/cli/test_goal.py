"""Goals in the place of methods."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

import foldrank
from foldrank.cli import plans
from foldrank.plans.request import parse
from foldrank.recipe import Recipe
from foldrank.verbs.goal import GOALS, TABLE, choice, methods_of


@pytest.mark.parametrize("provider", ["cpu", "cuda", "tensorrt"])
def test_every_goal_is_a_method_that_its_provider_can_run(provider: str) -> None:
    for goal in GOALS:
        *before, method = methods_of(goal, provider)
        request = parse(method.replace(TABLE, "costs.json"))
        few, rounds = provider != "tensorrt", request.method.name == "quantize"
        assert rounds == (few and goal != "fast")
        assert [parse(other).method.name for other in before] == ["rotate"] * rounds
        assert methods_of(goal, provider, turning=()) == (method,)
        centred = ("pre_rmsnorm", "rotate")
        assert methods_of(goal, provider, turning=centred) == (*(centred if rounds else ()), method)
        assert rounds or request.settings.stores == few
        assert rounds or (request.settings.cost_table is not None) == (goal == "fast")


def test_recovery_has_what_planning_and_judging_leave() -> None:
    """A pass of 60 s: `quantize` takes 5.4 minutes and judging 2.8 at most, `auto` 19.4."""
    pace = {"token_s": 60 / 24_576, "calibration": 24_576}
    free = choice("balanced", "cpu", **pace)
    assert (free.recover, free.minutes, free.tokens) == ("scales", 15, 20_480)
    assert free.methods == ("rotate", "quantize:bits=4")
    for goal, left_min, minutes in (("balanced", 40, 15), ("balanced", 8, 1.5), ("balanced", 6.5, None),
                                    ("balanced", 5, None), ("fast", 29, 6.8), ("fast", 19, None)):
        found = choice(goal, "cpu", **pace, left_s=60 * left_min)
        assert (found.recover, found.minutes) == ("scales" if minutes else None, minutes)
        assert ("more than the minutes given leave" in found.told) == (left_min in (5, 19))
    assert choice("balanced", "tensorrt", **pace).recover is None


@pytest.mark.parametrize(("left_s", "tokens"), [(10_000, 20_480), (400, 7_168), (100, 5_120)])
def test_a_slow_machine_judges_on_fewer_tokens_in_whole_windows(left_s: float, tokens: int) -> None:
    """2.4 ms a token: two models with heads take 8.2 ms, of 60 s in 400."""
    found = choice("balanced", "cpu", token_s=0.0024, calibration=24_576, left_s=left_s)
    assert found.tokens == tokens
    assert (f"on {tokens:,} tokens" in found.told) == (tokens < 20_480)


def test_a_goal_that_there_is_not_and_one_beside_methods_are_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="known are small, balanced, fast"):
        methods_of("tiny", "cpu")
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
