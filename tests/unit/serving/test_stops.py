"""Stops: a text ends before the first of them, in whatever pieces it comes, and nothing of one is ever shown."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foldrank.verbs.serving.stops import Held


def shown(pieces: list[str], stops: list[str]) -> tuple[str, bool]:
    held = Held(stops)
    text = "".join(held.add(piece) for piece in pieces)
    return text + held.rest(), held.stopped


def whole(text: str, stops: list[str]) -> tuple[str, bool]:
    """By cutting prefixes: the shortest one that ends with a stop is where the text ended."""
    for end in range(len(text) + 1):
        if found := [stop for stop in stops if text[:end].endswith(stop)]:
            return text[: end - max(map(len, found))], True
    return text, False


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.text("ab", max_size=4), max_size=8), st.lists(st.text("ab", min_size=1, max_size=3), max_size=1))
def test_pieces_do_not_matter(pieces: list[str], stops: list[str]) -> None:
    assert shown(pieces, stops) == whole("".join(pieces), stops)


@pytest.mark.parametrize(("pieces", "stops", "wanted"), [
    (["x\n", "\ny"], ["\n\n"], ("x", True)),
    (["one END", " two"], ["END", "one"], ("", True)),
    (["ab", "a"], ["abab"], ("aba", False)),
    (["a", "b", "c"], [], ("abc", False)),
])
def test_a_text_ends_at_the_first_stop(pieces: list[str], stops: list[str], wanted: tuple[str, bool]) -> None:
    assert shown(pieces, stops) == wanted


def test_only_what_may_begin_a_stop_waits() -> None:
    held = Held(["STOP"])
    assert [held.add(piece) for piece in ("go S", "T", "AR", "ST")] == ["go ", "", "STAR", ""]
