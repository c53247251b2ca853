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

WIDE_ABOVE = 0.05
"""An interval whose width over the ratio is larger marks its row unstable."""

SPREAD = "1.4826 * median(|x - median(x)|) / median(x)"
"""What `spread` computes, as the report says it: for normal samples the standard deviation over the median."""

_RESAMPLES = 4000
_BETWEEN = 0.9
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


def unstable_because(samples: Sequence[float], found: Estimate | None = None) -> str | None:
    """Why samples are not to be trusted: they spread, fall into two groups, or leave a wide interval; else None."""
    if (wide := spread(samples)) > UNSTABLE_ABOVE:
        return f"samples spread by {wide:.1%}"
    if (apart := modes_apart(samples)) is not None:
        return f"samples fall into two groups, {apart:.1%} apart"
    if found is not None and (width := (found.high - found.low) / found.ratio) > WIDE_ABOVE:
        return f"the 95 % interval is {width:.1%} wide"
    return None


def modes_apart(samples: Sequence[float]) -> float | None:
    """Distance of two groups over the median, where the samples are two groups; else None.

    The cut with the least variance inside (Otsu 1979). Two groups: each a fifth of the samples or more, the share of
    variance between them over _BETWEEN (2 / pi = 0.64 for normal samples, 0.75 for uniform ones), and over
    UNSTABLE_ABOVE apart: closer ones change no conclusion.
    """
    values = np.sort(np.asarray(samples, dtype=np.float64))
    total, least = float(values.var()), max(2, -(-len(values) // 5))
    if total == 0 or len(values) < 2 * least:
        return None
    cuts = range(least, len(values) - least + 1)
    low, high = max(((values[:k], values[k:]) for k in cuts),
                    key=lambda both: len(both[0]) * len(both[1]) * (both[1].mean() - both[0].mean()) ** 2)
    distance = float(high.mean() - low.mean())
    between = len(low) * len(high) / len(values) ** 2 * distance**2 / total
    apart = distance / float(np.median(values))
    return apart if between > _BETWEEN and apart > UNSTABLE_ABOVE else None


def _resampled_medians(ratios_LP: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Medians of _RESAMPLES draws from L launches of P pairs: launches with replacement, then pairs inside each."""
    launches, pairs = ratios_LP.shape
    chosen = rng.integers(launches, size=(_RESAMPLES, launches, 1))
    inside = rng.integers(pairs, size=(_RESAMPLES, launches, pairs))
    return np.median(ratios_LP[chosen, inside].reshape(_RESAMPLES, -1), axis=1)
