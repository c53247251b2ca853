"""What the items of the tasks are, whatever the text and seed: one of four continuations is the text's own."""

from __future__ import annotations

import ast
import re

import pytest

from foldrank.plans.texts import load_text
from foldrank.runtime.tasks.items import CHOICES, Item, made


@pytest.fixture(scope="module")
def documents() -> list[str]:
    return load_text(None, "validation")


@pytest.fixture(scope="module")
def items(documents: list[str]) -> dict[str, list[Item]]:
    return made(documents, count=40, length=60, seed=3)


def test_every_item_has_as_many_choices_none_twice_and_the_true_one_anywhere(items: dict[str, list[Item]]) -> None:
    assert [len(found) for found in items.values()] == [40] * 4
    for found in items.values():
        assert all(len(set(item.choices)) == len(item.choices) == CHOICES for item in found)
        assert all(item.choices[item.gold][0].isspace() and not item.prompt[-1].isspace() for item in found)
        assert {item.gold for item in found} == set(range(CHOICES))
        assert len(set(found)) == 40


def test_true_continuations_stand_in_the_text_and_false_ones_elsewhere(
    items: dict[str, list[Item]], documents: list[str]
) -> None:
    text = "\0".join(documents)
    for item in items["continuation"]:
        assert [item.prompt + choice in text for choice in item.choices] == [n == item.gold for n in range(CHOICES)]
        assert all(choice in text for choice in item.choices)
    for item in items["cloze"]:
        assert item.prompt + item.choices[item.gold] in text
        assert all(choice[1:] in re.findall(r"[A-Za-z]{4,}", item.prompt) for choice in item.choices)


def test_sums_are_right_and_the_other_answers_wrong(items: dict[str, list[Item]]) -> None:
    for item in items["arithmetic"]:
        *shown, asked = item.prompt.split("\n")
        assert [_value(line.split(" = ")[0]) for line in shown] == [int(line.split(" = ")[1]) for line in shown]
        right = [int(choice) == _value(asked.removesuffix(" =")) for choice in item.choices]
        assert right == [n == item.gold for n in range(CHOICES)]


def test_copied_lists_go_on_as_they_began(items: dict[str, list[Item]]) -> None:
    for item in items["copy"]:
        listed, begun = item.prompt.split("\n")
        assert listed.startswith(begun + item.choices[item.gold] + " ")


def test_text_and_seed_make_the_items(documents: list[str], items: dict[str, list[Item]]) -> None:
    assert made(documents, count=40, length=60, seed=3) == items
    other = made(documents, count=40, length=60, seed=4)
    assert all(other[name] != items[name] for name in items)


def test_a_text_too_short_has_no_items_of_its_words() -> None:
    found = made(["Few words."], count=5, length=60, seed=0)
    assert {name: len(some) for name, some in found.items()} == {
        "continuation": 0, "cloze": 0, "arithmetic": 5, "copy": 0}


def _value(text: str) -> int:
    first, sign, second = text.split()
    assert sign in ("+", "-")
    return ast.literal_eval(first) + (1 if sign == "+" else -1) * ast.literal_eval(second)
