"""Two sets of logits side by side, window after window: how far apart, and do they choose the same tokens.

Axes: N positions, V vocabulary. float64 throughout: a mean KL of 1e-6 nats must not be rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foldrank.errors import ValidationFailed

Array = NDArray[Any]
_NUMBERS_AT_ONCE = 1 << 21


def log_softmax(logits_NV: Array) -> NDArray[np.float64]:
    """Log probabilities [N, V] in nats."""
    shifted = logits_NV.astype(np.float64) - logits_NV.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def kl_divergence(first_NV: Array, second_NV: Array) -> NDArray[np.float64]:
    """KL(first || second) [N] in nats, from log probabilities."""
    return (np.exp(first_NV) * (first_NV - second_NV)).sum(axis=-1)


def pieces(*logits_NV: Array) -> Iterator[tuple[Array, ...]]:
    """The same positions of each, few enough that float64 copies stay small."""
    rows = max(1, _NUMBERS_AT_ONCE // logits_NV[0].shape[-1])
    for start in range(0, len(logits_NV[0]), rows):
        yield tuple(logits[start : start + rows] for logits in logits_NV)


@dataclass
class Comparison:
    """Grows with every `add`; `what` names the second side in errors."""

    what: str
    positions: int = 0
    largest_error: float = 0.0
    largest_logit: float = 0.0
    kl_sum: float = 0.0
    _gaps: list[float] = field(default_factory=list)

    def add(self, wanted: Array, found: Array) -> None:
        """Compare logits [..., V] of equal shape. Raises ValidationFailed where either holds NaN or infinity."""
        if wanted.shape != found.shape:
            raise ValidationFailed(self.what, f"gives logits {found.shape}, the reference {wanted.shape}",
                                   "take a reference of the same model")
        vocabulary = wanted.shape[-1]
        for want_NV, find_NV in pieces(wanted.reshape(-1, vocabulary), found.reshape(-1, vocabulary)):
            check_finite("the reference", want_NV)
            check_finite(self.what, find_NV)
            self._add(want_NV.astype(np.float64), find_NV.astype(np.float64))

    def _add(self, want_NV: Array, find_NV: Array) -> None:
        rows = np.arange(len(want_NV))
        self.positions += len(rows)
        self.largest_error = max(self.largest_error, float(np.abs(want_NV - find_NV).max()))
        self.largest_logit = max(self.largest_logit, float(np.abs(want_NV).max()))
        self.kl_sum += float(kl_divergence(log_softmax(want_NV), log_softmax(find_NV)).sum())
        best, chosen = want_NV.argmax(axis=-1), find_NV.argmax(axis=-1)
        gap_N = want_NV[rows, best] - want_NV[rows, chosen]
        self._gaps.extend(gap_N[best != chosen].tolist())

    @property
    def relative_error(self) -> float:
        """Largest |error| over the largest |wanted logit|."""
        return self.largest_error / self.largest_logit if self.largest_logit else float(self.largest_error > 0)

    @property
    def kl_nats(self) -> float:
        """Mean KL(wanted || found); rounding below zero is zero."""
        return max(0.0, self.kl_sum / self.positions) if self.positions else 0.0

    def argmax_agreement(self, tolerance: float) -> float:
        """Share of positions with the same likeliest token; within `tolerance` of the largest logit there is a tie."""
        differing = sum(gap > tolerance * self.largest_logit for gap in self._gaps)
        return 1.0 - differing / self.positions if self.positions else 1.0


def check_finite(what: str, logits_NV: Array) -> None:
    """Raise ValidationFailed where a logit is NaN or infinite."""
    bad = np.atleast_1d(~np.isfinite(logits_NV).all(axis=-1))
    if bad.any():
        raise ValidationFailed(what, f"gives NaN or infinite logits at {int(bad.sum())} of {len(bad)} positions",
                               "export as fp32, or keep more")
