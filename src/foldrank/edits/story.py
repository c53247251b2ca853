"""What edits did, in sentences: of each, of all of a kind, or of many alike whatever their kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from foldrank.edits.base import Edit, Told


def story(edits: Iterable[Edit]) -> list[str]:
    """In order: a sentence of each edit, or the gist of its kind, then `43 weights and the head stored in 4 bits.`"""
    found: list[str] = []
    together: dict[str, Counter[Told]] = {}
    for kind, alike in _by_kind(edits).items():
        told = [edit.told for edit in alike]
        if gist := kind.gist(alike):
            found.append(gist)
        for edit, one in zip(alike, told, strict=True):
            if one is not None:
                together.setdefault(one.became, Counter())[one] += 1
            elif not gist:
                found.append(edit.sentence())
    return [*found, *(f"{_subjects(told)} {became}." for became, told in together.items())]


def beyond_config(edits: Iterable[Edit], blocks: int) -> str:
    """What config.json does not say of the model, and what that means for who loads it; empty where it says all.
    `blocks`: how many are left."""
    unsaid = [what for kind, alike in _by_kind(edits).items() if (what := kind.unsaid(alike, blocks))]
    if not unsaid:
        return ""
    return (f"`config.json` has no words for {' and '.join(unsaid)}: what it says of them is true of the source. The "
            "graph holds what is there, so onnxruntime-genai and ONNX Runtime load this bundle as any other; "
            "transformers cannot build the model from `config.json`.")


def _by_kind(edits: Iterable[Edit]) -> dict[type[Edit], list[Edit]]:
    found: dict[type[Edit], list[Edit]] = {}
    for edit in edits:
        found.setdefault(type(edit), []).append(edit)
    return found


def _subjects(told: Counter[Told]) -> str:
    *first, last = [f"{count} {one.subject}" if one.counted else one.subject for one, count in told.items()]
    text = f"{', '.join(first)} and {last}" if first else last
    return text[:1].upper() + text[1:]
