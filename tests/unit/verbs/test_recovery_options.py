"""What may be asked of recovery and of calibration text, and how the commands of a report say it again."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from foldrank.reporting import reproduced
from foldrank.verbs.plan import recovery
from foldrank.verbs.reading import chosen_text


@pytest.mark.parametrize(("kind", "options", "said"), [
    ("everything", {}, "known are factors, sliced, lora, middle, diagonal, scales, norms"),
    ("lora", {"target": "words"}, "known are logits, features, both"),
    ("lora", {"select": "best"}, "known are random, rs2, paser"),
    ("lora", {"minutes": 3, "steps": 20}, "one of the two"),
    (None, {"minutes": 0.0}, "above 0"),
    (None, {"minutes": float("nan")}, "above 0"),
    ("lora", {"lisa": 0}, "1 or more"),
    (None, {"lisa": 2}, "give --recover too"),
])
def test_what_cannot_be_asked_is_told(kind: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        recovery(kind, None, None, options.pop("steps", None), **options)


def test_minutes_alone_ask_for_a_recovery() -> None:
    asked = recovery(None, None, None, None, minutes=15, like="~/likes.txt")
    assert asked is not None
    assert (asked.kind, asked.minutes, asked.target, asked.select) == (None, 15, "logits", "random")
    assert asked.like == Path.home() / "likes.txt"
    assert recovery(None, None, None, None) is None


def test_calibration_comes_from_one_place() -> None:
    assert chosen_text("a.txt", None, None) == "a.txt"
    assert chosen_text(None, "corpus.jsonl", "like.txt") == "corpus.jsonl"
    for wrong in (("a.txt", "corpus.jsonl", "like.txt"), (None, "corpus.jsonl", None), (None, None, "like.txt")):
        with pytest.raises(ValueError, match="go together"):
            chosen_text(*wrong)


def test_a_report_says_again_how_a_plan_was_recovered() -> None:
    step = {"method": "recover", "settings": {"kind": "sliced", "steps": 91, "tokens": 4096, "minutes": 15.0,
                                              "select": "rs2", "target": "both", "lisa": 2, "text": "a.txt 00"}}
    assert shlex.join(reproduced._recover(step)) == (
        "--recover sliced --recover-minutes 15 --recover-tokens 4096 --recover-target both --recover-select rs2 "
        "--recover-lisa 2 --recover-text a.txt")
    usual = {"method": "recover", "settings": {"kind": "lora", "steps": 300, "tokens": 4096, "text": "a like b 00"}}
    assert shlex.join(reproduced._recover(usual)) == "--recover lora --recover-tokens 4096 --recover-steps 300"
