"""Items of four small tasks, made by a seeded program: three of the held-out text's own words, one of numbers.

Each item is a prompt and four continuations, one of them true: a guess is right in a quarter. Knows text, not tokens.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Metric = Literal["acc", "acc_norm"]
CHOICES = 4
EXAMPLES = 3
"""Sums that an arithmetic prompt shows, and words that a copying one has copied when it stops."""

_LISTED = 6
_LONG = re.compile(r"[A-Za-z]{4,}")
_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class Item:
    """A prompt, its continuations (each with the space before it) and which of them is true."""

    prompt: str
    choices: tuple[str, ...]
    gold: int


@dataclass(frozen=True)
class Passages:
    """Runs of equally many words of the documents, without overlap; `known`: the long words in them."""

    runs: tuple[str, ...]
    known: tuple[str, ...]

    @classmethod
    def of(cls, documents: Sequence[str], length: int) -> Passages:
        """Of `length` words, as they stand in the text, its spaces and line breaks too."""
        runs = tuple(run for document in documents for run in _runs(document, length))
        return cls(runs, tuple(sorted({word for run in runs for word in _LONG.findall(run)})))


Maker = Callable[[Passages, random.Random], Iterator[Item]]


def continuation(passages: Passages, chance: random.Random) -> Iterator[Item]:
    """The last fifth of a passage, among those of three others."""
    halves = [_split(run) for run in passages.runs]
    for number in chance.sample(range(len(halves)), len(halves)):
        prompt, true = halves[number]
        others = [end for place, (_, end) in enumerate(halves) if place != number and end != true]
        if len(set(others)) >= CHOICES - 1:
            yield _item(prompt, true, chance.sample(sorted(set(others)), CHOICES - 1), chance)


def cloze(passages: Passages, chance: random.Random) -> Iterator[Item]:
    """The last long word of a passage that stands in it before, among three others that do."""
    for run in chance.sample(passages.runs, len(passages.runs)):
        found = [match for match in _LONG.finditer(run) if match.start() > 0 and run[match.start() - 1] == " "]
        for match in reversed(found[1:]):
            prompt, true = run[: match.start() - 1], match[0]
            before = set(_LONG.findall(prompt))
            if true in before and len(before) >= CHOICES:
                others = chance.sample(sorted(before - {true}), CHOICES - 1)
                yield _item(prompt, f" {true}", [f" {word}" for word in others], chance)
                break


def arithmetic(_: Passages, chance: random.Random) -> Iterator[Item]:
    """A sum or a difference of numbers up to 50 after three that are worked out; wrong by 1, 2 or 10."""
    while True:
        sums = [_sum(chance) for _ in range(EXAMPLES + 1)]
        shown = "\n".join(f"{text} = {value}" for text, value in sums[:-1])
        text, true = sums[-1]
        near = [true + by for by in (-10, -2, -1, 1, 2, 10) if true + by >= 0]
        wrong = [f" {value}" for value in chance.sample(near, CHOICES - 1)]
        yield _item(f"{shown}\n{text} =", f" {true}", wrong, chance)


def copy(passages: Passages, chance: random.Random) -> Iterator[Item]:
    """The next word of a list that is written a second time, among three others of it."""
    while len(passages.known) >= _LISTED:
        words = chance.sample(passages.known, _LISTED)
        others = [word for number, word in enumerate(words) if number != EXAMPLES]
        listed, begun = " ".join(words), " ".join(words[:EXAMPLES])
        yield _item(f"{listed}\n{begun}", f" {words[EXAMPLES]}",
                    [f" {word}" for word in chance.sample(others, CHOICES - 1)], chance)


TASKS: dict[str, tuple[Maker, Metric]] = {
    "continuation": (continuation, "acc_norm"), "cloze": (cloze, "acc"), "arithmetic": (arithmetic, "acc"),
    "copy": (copy, "acc"),
}
"""Who makes a task's items, and lm-eval's name of what is counted: the likeliest, by the character where continuations
are of several words."""


def made(documents: Sequence[str], *, count: int, length: int, seed: int) -> dict[str, list[Item]]:
    """At most `count` items of every task from passages of `length` words; a task for which the text is too short has
    none. The same text and seed give the same items."""
    passages = Passages.of(documents, length)
    found = {}
    for name, (maker, _) in TASKS.items():
        items = maker(passages, random.Random(f"{seed} {name}"))
        found[name] = [item for _, item in zip(range(count), items, strict=False)]
    return found


def _runs(document: str, length: int) -> Iterator[str]:
    words = list(_WORD.finditer(document))
    for first in range(0, len(words) - length + 1, length):
        yield document[words[first].start() : words[first + length - 1].end()]


def _split(run: str) -> tuple[str, str]:
    """Four fifths of its words, and the rest with what stands before it."""
    words = list(_WORD.finditer(run))
    end = words[max(1, len(words) * 4 // 5) - 1].end()
    return run[:end], run[end:]


def _sum(chance: random.Random) -> tuple[str, int]:
    first, second = chance.randint(1, 50), chance.randint(1, 50)
    if chance.random() < 0.5:
        return f"{first} + {second}", first + second
    return f"{max(first, second)} - {min(first, second)}", abs(first - second)


def _item(prompt: str, true: str, others: Sequence[str], chance: random.Random) -> Item:
    choices = [true, *others]
    chance.shuffle(choices)
    return Item(prompt, tuple(choices), choices.index(true))
