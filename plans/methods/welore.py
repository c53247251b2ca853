"""WeLore (arXiv 2407.11239): ranks by one threshold on normalised singular values; it needs no text.

Each matrix's singular values are divided by its largest, and all matrices keep those from one threshold on: the lowest
that the budget affords. A matrix whose values fall late would need a rank at which a pair saves nothing, and stays
dense. `whitening=plain` takes the values of S^T W, where S S^T is the Gram matrix of the inputs, and cuts under it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as settings_dataclass

from foldrank.edits.base import Phase
from foldrank.plans.low_rank.decomposing import Budget, by_input, decompose, truncated, within
from foldrank.plans.low_rank.ranks import Candidate, Ranks, smallest, total
from foldrank.plans.low_rank.whitening import Metric
from foldrank.plans.method import Method, Result, Task
from foldrank.plans.methods.svd import BLIND


@settings_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Settings(Budget):
    """`whitening`: plain looks at the inputs, none at the weights alone."""

    whitening: Literal["none", "plain"] = "none"


def normalised(candidate: Candidate) -> np.ndarray:
    """Singular values over the largest, descending [K]: losses by rank are sums of their squares from there on."""
    squares = np.clip(-np.diff(candidate.shares), 0, None)
    return np.sqrt(squares / squares[0]) if squares[0] > 0 else np.zeros_like(squares)


def above(candidates: Sequence[Candidate], threshold: float, align: int) -> Ranks:
    """How many values reach the threshold, by site, rounded down to `align`; dense where no pair of that rank saves."""
    least = smallest(candidates, align)

    def rank(candidate: Candidate) -> int | None:
        found, held = int((normalised(candidate) >= threshold).sum()), least[candidate.site]
        return None if held is None or found > candidate.limit else max(found // align * align, held)

    return {candidate.site: rank(candidate) for candidate in candidates}


def by_threshold(candidates: Sequence[Candidate], budget: int, align: int) -> Ranks:
    """Ranks of the lowest threshold at which they hold at most `budget` numbers; the smallest, where none does."""
    thresholds = np.unique(np.concatenate([normalised(candidate) for candidate in candidates]))
    low, high = 0, len(thresholds)
    while low < high:
        middle = (low + high) // 2
        if total(candidates, above(candidates, thresholds[middle], align)) > budget:
            low = middle + 1
        else:
            high = middle
    return above(candidates, thresholds[low] if low < len(thresholds) else np.inf, align)


def run(task: Task, settings: Settings) -> Result:
    """Factor the model. Raises ValueError where the budget is below the smallest ranks."""
    if settings.keep == 1:
        return Result(task.decoder, edits=(), kept=1.0)
    parts = decompose(task, BLIND if settings.whitening == "none" else by_input(Metric), settings.packed)
    start = by_threshold(parts.candidates, settings.numbers(task), settings.align)
    return truncated(task, parts, within(settings, task, parts.candidates, start, "welore"), "welore")


METHOD = Method("welore", Settings, run, phase=Phase.WEIGHTS)
