"""What edits did, in sentences: each by itself, or many alike as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from foldrank.edits.base import Edit


def story(edits: Iterable[Edit]) -> list[str]:
    """One sentence for each, in order; `43 weights and the head stored in 4 bits in blocks of 32.` for many alike."""
    alone: list[str] = []
    together: dict[str, Counter[str]] = {}
    for edit in edits:
        if edit.told is None:
            alone.append(edit.sentence())
        else:
            subject, became = edit.told
            together.setdefault(became, Counter())[subject] += 1
    return [*alone, *(f"{_subjects(subjects)} {became}." for became, subjects in together.items())]


def _subjects(counted: Counter[str]) -> str:
    text = " and ".join(name if name.startswith("the ") else f"{count} {name}" for name, count in counted.items())
    return text[:1].upper() + text[1:]
