"""What edits did, in sentences: each by itself, or many alike as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from foldrank.edits.base import Edit, Told


def story(edits: Iterable[Edit]) -> list[str]:
    """One sentence for each, in order; `43 weights and the head stored in 4 bits in blocks of 32.` for many alike."""
    alone: list[str] = []
    together: dict[str, Counter[Told]] = {}
    for edit in edits:
        if edit.told is None:
            alone.append(edit.sentence())
        else:
            together.setdefault(edit.told.became, Counter())[edit.told] += 1
    return [*alone, *(f"{_subjects(told)} {became}." for became, told in together.items())]


def _subjects(told: Counter[Told]) -> str:
    *first, last = [f"{count} {one.subject}" if one.counted else one.subject for one, count in told.items()]
    text = f"{', '.join(first)} and {last}" if first else last
    return text[:1].upper() + text[1:]
