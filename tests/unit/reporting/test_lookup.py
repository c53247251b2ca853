"""Odd JSON gives None or nothing, never a wrong value."""

import pytest

from foldrank.reporting import lookup

DOCUMENT = {
    "a": {"b": 3, "list": [1, 2.5]},
    "flag": True,
    "word": "x",
    "timed": {"median": 4.5},
    "mixed": [1, "x"],
    "objects": [{"k": 1}, 7],
    "huge": 1e400,
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("a", "b"), 3),
        (("a", "c"), None),
        (("word", "b"), None),
        (("flag",), None),
        (("word",), None),
        (("timed",), None),
        (("timed", "median"), 4.5),
        (("huge",), None),
    ],
)
def test_numbers(path: tuple[str, ...], value: float | None) -> None:
    assert lookup.number(DOCUMENT, *path) == value


def test_lists_objects_and_text() -> None:
    assert lookup.numbers(DOCUMENT, "a", "list") == [1, 2.5]
    assert lookup.numbers(DOCUMENT, "mixed") == []
    assert lookup.rows(DOCUMENT, "objects") == [{"k": 1}]
    assert lookup.rows(DOCUMENT, "word") == []
    assert lookup.pairs(DOCUMENT, "word") == {}
    assert lookup.text(DOCUMENT, "a") is None
    assert lookup.integer(DOCUMENT, "timed") is None
    assert lookup.number(None, "a") is None
