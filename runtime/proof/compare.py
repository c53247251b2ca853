"""Two sets of logits side by side, window after window: how far apart, and do they choose the same tokens.

Axes: N positions, V vocabulary. A mean KL of 1e-6 nats must not be rounding: it is summed of terms of one sign.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foldrank.errors import ValidationFailed

Array = NDArray[Any]
_NUMBERS_AT_ONCE = 1 << 16
"""Few enough for a core's own cache: larger temporaries take three times as long."""

_NEAR = 1e-2
"""Logits that differ by less: four terms of a series are exact to 1e-9 of their sum."""


def log_softmax(logits_NV: Array) -> NDArray[np.float64]:
    """Log probabilities [N, V] in nats."""
    shifted = logits_NV.astype(np.float64) - logits_NV.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def kl_divergence(first_NV: Array, second_NV: Array) -> NDArray[np.float64]:
    """KL(first || second) [N] in nats, from log probabilities."""
    return (np.exp(first_NV) * (first_NV - second_NV)).sum(axis=-1)


def kl_of_logits(wanted_NV: Array, found_NV: Array) -> NDArray[np.float64]:
    """KL(softmax of wanted || softmax of found) [N] in nats, to the relative precision of the logits' own type.

    With p of the wanted, and d the difference of logits less its mean under p, it is log(1 + sum p (e^d - 1 - d)), of
    which no term is negative.
    """
    weights_NV = np.exp(wanted_NV - wanted_NV.max(axis=-1, keepdims=True))
    mass_N = weights_NV.sum(axis=-1, dtype=np.float64)
    apart_NV = found_NV - wanted_NV
    mean_N = np.einsum("nv,nv->n", weights_NV, apart_NV) / mass_N
    apart_NV -= mean_N[:, None].astype(apart_NV.dtype)
    if float(np.abs(apart_NV).max()) < _NEAR:
        excess_NV = np.square(apart_NV) * (0.5 + apart_NV * (1 / 6 + apart_NV * (1 / 24 + apart_NV * (1 / 120))))
    else:
        wide_NV = apart_NV.astype(np.float64)
        excess_NV = np.expm1(wide_NV) - wide_NV
    summed_N = np.einsum("nv,nv->n", weights_NV, excess_NV)
    return np.log1p(summed_N.astype(np.float64) / mass_N)


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
    worst: NDArray[np.int64] | None = None
    """Tokens [B, T] among which the largest error is, where `add` was told them."""
    _gaps: list[float] = field(default_factory=list)
    _errors: list[NDArray[np.float32]] = field(default_factory=list)

    def add(self, wanted: Array, found: Array, tokens: NDArray[np.int64] | None = None) -> None:
        """Compare logits [..., V] of equal shape, of these token ids. Raises ValidationFailed where either holds NaN or
        infinity."""
        if wanted.shape != found.shape:
            raise ValidationFailed(self.what, f"gives logits {found.shape}, the reference {wanted.shape}",
                                   "take a reference of the same model")
        vocabulary, before = wanted.shape[-1], self.largest_error
        for want_NV, find_NV in pieces(wanted.reshape(-1, vocabulary), found.reshape(-1, vocabulary)):
            check_finite("the reference", want_NV)
            check_finite(self.what, find_NV)
            self._add(want_NV, find_NV)
        if self.worst is None or self.largest_error > before:
            self.worst = tokens

    def _add(self, want_NV: Array, find_NV: Array) -> None:
        rows = np.arange(len(want_NV))
        self.positions += len(rows)
        self._errors.append(_largest(find_NV - want_NV).astype(np.float32))
        self.largest_error = max(self.largest_error, float(self._errors[-1].max()))
        self.largest_logit = max(self.largest_logit, float(_largest(want_NV).max()))
        self.kl_sum += float(kl_of_logits(want_NV, find_NV).sum())
        best, chosen = want_NV.argmax(axis=-1), find_NV.argmax(axis=-1)
        gap_N = want_NV[rows, best] - want_NV[rows, chosen]
        self._gaps.extend(gap_N[best != chosen].tolist())

    @property
    def relative_error(self) -> float:
        """Largest |error| over the largest |wanted logit|."""
        return self.largest_error / self.largest_logit if self.largest_logit else float(self.largest_error > 0)

    @property
    def usual_error(self) -> float:
        """The same of all positions but the worst hundredth."""
        return usual(np.concatenate(self._errors)) / self.largest_logit if self.largest_logit else self.relative_error

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
    if np.isfinite(logits_NV.max(initial=0.0)) and np.isfinite(logits_NV.min(initial=0.0)):
        return
    bad = np.atleast_1d(~np.isfinite(logits_NV).all(axis=-1))
    if bad.any():
        raise ValidationFailed(what, f"gives NaN or infinite logits at {int(bad.sum())} of {len(bad)} positions",
                               "export as fp32, or keep more")


def usual(errors_N: Array) -> float:
    """The largest but for the worst hundredth; of a hundred positions or fewer the largest."""
    return float(np.quantile(errors_N, 0.99, method="higher"))


def _largest(numbers_NV: Array) -> Array:
    """Size of the largest of each row [N]."""
    return np.maximum(numbers_NV.max(axis=-1), -numbers_NV.min(axis=-1))
