"""Method options are read strictly."""

from __future__ import annotations

import pytest

from foldrank.plans.compose import parse_all
from foldrank.plans.request import aligned, parse


def test_values_are_typed_and_defaults_recorded() -> None:
    request = parse("slm:keep=0.75,rule=mean,protect_first=2")
    assert request.values["keep"] == 0.75
    assert request.values["protect_first"] == 2
    assert request.values["rule"] == "mean"
    assert request.values["threshold"] is None
    assert request.values["norms"] == "bottom"


@pytest.mark.parametrize(("text", "says"), [
    ("slim:keep=0.5", "unknown method 'slim'; known are .*dipsvd, .*slm"),
    ("slm:ratio=0.5", "unknown setting ratio; known are keep, threshold, blocks"),
    ("slm:keep=0", "keep.*greater than 0"),
    ("slm:keep=1.01", "keep.*less than or equal to 1"),
    ("slm:keep=nan", "keep.*finite"),
    ("slm:keep=half", "keep.*valid number"),
    ("slm:keep=0.5,keep=0.6", "keep stands twice"),
    ("slm:keep", "'keep' is not KEY=VALUE"),
    ("slm:", "is not KEY=VALUE"),
    ("slm", "exactly one of keep, threshold, blocks"),
    ("slm:keep=0.5,blocks=3", "exactly one of keep, threshold, blocks"),
    ("slm:keep=0.5,rule=median", "rule.*'top', 'rdsc', 'mean', 'bottom' or 'learned'"),
    ("dipsvd", "keep"),
    ("dipsvd:keep=-0.1", "keep.*greater than 0"),
    ("dipsvd:keep=0.5,align=0", "align.*greater than or equal to 1"),
    ("dipsvd:keep=0.5,weight=0", "weight.*greater than 0"),
])
def test_wrong_use_is_a_value_error_that_says_why(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse(text)


def test_order_and_repeats() -> None:
    assert [r.method.name for r in parse_all(["slm:keep=0.75", "dipsvd:keep=0.8"])] == ["slm", "dipsvd"]
    with pytest.raises(ValueError, match="fold blocks come before"):
        parse_all(["dipsvd:keep=0.8", "slm:keep=0.75"])
    with pytest.raises(ValueError, match="several of them fold blocks; one can"):
        parse_all(["slm:keep=0.75", "sleb:keep=0.9"])
    with pytest.raises(ValueError, match="several of them replace weights; one can"):
        parse_all(["svd:keep=0.75", "dipsvd:keep=0.9"])
    with pytest.raises(ValueError, match="several of them replace weights; one can"):
        parse_all(["auto:keep=0.75", "dipsvd:keep=0.9"])
    with pytest.raises(ValueError, match="replace weights come before those that store in few bits"):
        parse_all(["quantize", "dipsvd:keep=0.9"])
    with pytest.raises(ValueError, match="slm stands twice"):
        parse_all(["slm:keep=0.8", "slm:keep=0.75"])
    with pytest.raises(ValueError, match="no method given"):
        parse_all([])


@pytest.mark.parametrize(("text", "given"), [
    ("dipsvd:keep=0.5", "dipsvd:keep=0.5,align=64"),
    ("dipsvd:keep=0.5,align=16", "dipsvd:keep=0.5,align=16"),
    ("dipsvd:keep=0.5,align=128", "dipsvd:keep=0.5,align=128"),
    ("slm:keep=0.5", "slm:keep=0.5"),
    ("quantize", "quantize"),
])
def test_ranks_are_aligned_where_the_user_says_nothing_of_them(text: str, given: str) -> None:
    assert aligned(text, 64) == given


def test_ranks_fill_the_blocks_they_are_then_stored_in() -> None:
    found = [request.values.get("align") for request in parse_all(["svd:keep=0.5", "quantize:block_size=64"])]
    assert found == [64, None]
    assert parse_all(["svd:keep=0.5,align=8", "quantize"])[0].values["align"] == 8
    assert parse_all(["svd:keep=0.5"])[0].values["align"] == 16
