"""A grid: every combination once, each a recipe of its own; what is no axis is refused."""

import pytest

from foldrank.recipe import Recipe
from foldrank.verbs.sweeping.grid import candidates

ONE = Recipe(methods=("slm:keep=0.75,windows=2", "dipsvd:keep=0.8"), seed=1)


def methods(grid: list[str]) -> list[tuple[str, ...]]:
    return [one.recipe.methods for one in candidates(ONE, grid)]


def test_keep_is_set_in_every_method() -> None:
    assert methods(["keep=0.9,0.8"]) == [("slm:windows=2,keep=0.9", "dipsvd:keep=0.9"),
                                         ("slm:windows=2,keep=0.8", "dipsvd:keep=0.8")]


def test_axes_are_combined_in_the_order_given() -> None:
    found = candidates(ONE, ["method=slm:windows=4,tokens=128,svd", "keep=0.9,0.8", "seed=1", "seed=2"])
    assert [one.changes for one in found] == [
        {"method": method, "keep": keep, "seed": seed}
        for method in ("slm:windows=4,tokens=128", "svd") for keep in ("0.9", "0.8") for seed in ("1", "2")]
    assert found[0].recipe.methods == ("slm:windows=4,tokens=128,keep=0.9",)
    assert [one.recipe.seed for one in found[:2]] == [1, 2]
    assert len({one.name for one in found}) == 8


def test_one_setting_of_one_method_is_an_axis() -> None:
    assert methods(["methods.dipsvd.keep=0.9"]) == [("slm:keep=0.75,windows=2", "dipsvd:keep=0.9")]


def test_names_are_folders_whatever_stands_in_them() -> None:
    [one] = candidates(ONE, ["text=../../etc/passwd"])
    assert "/" not in one.name
    assert not one.name.startswith(".")


@pytest.mark.parametrize("grid", [
    ["keep"], ["keep="], ["depth=1,2"], ["seed=1,1"], ["seed=a"], ["goal=small"],
    ["seed=" + ",".join(map(str, range(1001)))],
])
def test_what_is_no_grid_is_refused(grid: list[str]) -> None:
    with pytest.raises(ValueError, match=r"grid|unknown|Input|methods"):
        candidates(ONE, grid)
