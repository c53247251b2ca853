"""Medians of pair ratios with a bootstrap interval that respects where the pairs came from.

Two processes running the same bundle differ by a per cent or so for as long as they live (memory layout), so pairs are
grouped by launch and the bootstrap draws launches first, then pairs within each (Kalibera & Jones 2013, "Rigorous
benchmarking in reasonable time"). With one launch it is the plain percentile bootstrap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UNSTABLE_ABOVE = 0.03
"""A row whose `spread` is larger is marked unstable."""

SPREAD = "1.4826 * median(|x - median(x)|) / median(x)"
"""What `spread` computes, as the report says it: for normal samples the standard deviation over the median."""

_RESAMPLES = 4000
_COVERAGE = 0.95


@dataclass(frozen=True)
class Estimate:
    """Median of the ratios and its 95 % interval."""

    ratio: float
    low: float
    high: float

    @property
    def ci95(self) -> list[float]:
        """Both ends, as JSON holds them."""
        return [self.low, self.high]

    def contains(self, value: float) -> bool:
        """Whether the interval holds the value."""
        return self.low <= value <= self.high


def estimate(launches: Sequence[Sequence[float]], seed: int) -> Estimate:
    """Median of all ratios and its percentile interval over resampled launches and pairs. Raises ValueError."""
    groups = [np.asarray(group, dtype=np.float64) for group in launches]
    if not groups or any(group.size == 0 or not (np.isfinite(group) & (group > 0)).all() for group in groups):
        raise ValueError("every launch needs at least one pair, all ratios finite and positive")
    medians = _resampled_medians(groups, np.random.default_rng(seed))
    tail = (1 - _COVERAGE) / 2
    low, high = np.quantile(medians, [tail, 1 - tail])
    return Estimate(float(np.median(np.concatenate(groups))), float(low), float(high))


def spread(samples: Sequence[float]) -> float:
    """Robust coefficient of variation, see SPREAD."""
    values = np.asarray(samples, dtype=np.float64)
    middle = np.median(values)
    return float(1.4826 * np.median(np.abs(values - middle)) / middle)


def stable(samples: Sequence[float]) -> bool:
    """Whether samples spread by at most UNSTABLE_ABOVE."""
    return spread(samples) <= UNSTABLE_ABOVE


def _resampled_medians(groups: list[NDArray[np.float64]], rng: np.random.Generator) -> NDArray[np.float64]:
    """Median of each of _RESAMPLES draws: launches with replacement, then pairs with replacement inside each."""
    medians = np.empty(_RESAMPLES)
    for draw in range(_RESAMPLES):
        chosen = rng.integers(len(groups), size=len(groups))
        medians[draw] = np.median(np.concatenate([rng.choice(groups[i], groups[i].size) for i in chosen]))
    return medians
