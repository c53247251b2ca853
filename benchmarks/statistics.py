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
    """Median of all ratios and its percentile interval. Launches have equally many pairs. Raises ValueError."""
    if not launches or len({len(pairs) for pairs in launches}) != 1 or not launches[0]:
        raise ValueError("every launch needs equally many pairs, at least one")
    ratios_LP = np.asarray(launches, dtype=np.float64)
    if not (np.isfinite(ratios_LP) & (ratios_LP > 0)).all():
        raise ValueError("a ratio is not finite and positive")
    medians = _resampled_medians(ratios_LP, np.random.default_rng(seed))
    tail = (1 - _COVERAGE) / 2
    low, high = np.quantile(medians, [tail, 1 - tail])
    return Estimate(float(np.median(ratios_LP)), float(low), float(high))


def spread(samples: Sequence[float]) -> float:
    """Robust coefficient of variation, see SPREAD."""
    values = np.asarray(samples, dtype=np.float64)
    middle = np.median(values)
    return float(1.4826 * np.median(np.abs(values - middle)) / middle)


def stable(samples: Sequence[float]) -> bool:
    """Whether samples spread by at most UNSTABLE_ABOVE."""
    return spread(samples) <= UNSTABLE_ABOVE


def _resampled_medians(ratios_LP: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Medians of _RESAMPLES draws from L launches of P pairs: launches with replacement, then pairs inside each."""
    launches, pairs = ratios_LP.shape
    chosen = rng.integers(launches, size=(_RESAMPLES, launches, 1))
    inside = rng.integers(pairs, size=(_RESAMPLES, launches, pairs))
    return np.median(ratios_LP[chosen, inside].reshape(_RESAMPLES, -1), axis=1)
