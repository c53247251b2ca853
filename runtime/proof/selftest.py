"""A bundle's self-test: what the reference said at a few hundred positions, small enough to travel with the bundle.

Token ids, the reference's likeliest tokens with their logits, and the log-sum-exp over the whole vocabulary. Replayed
without PyTorch, prefilled and decoded with the cache. Half precision is judged by the KL over the likeliest tokens and
all others taken as one, which is at most the whole KL (data processing inequality). Axes: N rows, T tokens, K likeliest
tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from foldrank.errors import BundleError
from foldrank.runtime.decoding.decoder import OrtDecoder, Tokens
from foldrank.runtime.proof.compare import Array, check_finite
from foldrank.runtime.proof.graph_proof import Criterion
from foldrank.runtime.providers.provider import Provider
from foldrank.tolerances import INT8

SCHEMA = "foldrank.selftest/1"
FILE = "selftest/selftest.safetensors"
ROWS, TOKENS, LIKELIEST = 4, 64, 8


@dataclass(frozen=True)
class SelfTest:
    """`ids` [N, T], `top_ids` and `top_logits` [N, T, K] likeliest first, `log_sum_exp` [N, T]; `reference` said so.

    `int8`: the bundle rounds activations to that, so it is judged as coarsely.
    """

    ids: Tokens
    top_ids: NDArray[np.int64]
    top_logits: NDArray[np.float32]
    log_sum_exp: NDArray[np.float32]
    reference: str
    int8: bool = False

    @classmethod
    def of(
        cls, ids_NT: Tokens, logits_of: Callable[[Tokens], Array], reference: str, *, int8: bool = False
    ) -> SelfTest:
        """Ask the reference. Raises ValidationFailed where it gives NaN or infinity."""
        logits = np.asarray(logits_of(ids_NT), dtype=np.float64)
        check_finite("the reference", logits)
        top = np.argsort(-logits, axis=-1, kind="stable")[..., :LIKELIEST]
        return cls(np.ascontiguousarray(ids_NT, np.int64), top,
                   np.take_along_axis(logits, top, -1).astype(np.float32), _log_sum_exp(logits).astype(np.float32),
                   reference, int8)

    def bytes(self) -> bytes:
        """As the bundle stores it: safetensors."""
        tensors = {"ids": self.ids, "top_ids": self.top_ids, "top_logits": self.top_logits,
                   "log_sum_exp": self.log_sum_exp}
        whole = {name: np.ascontiguousarray(array) for name, array in tensors.items()}  # safetensors writes buffers
        told = {"schema": SCHEMA, "reference": self.reference, "activations": "int8" if self.int8 else "as stored"}
        return bytes(save(whole, metadata=told))

    @classmethod
    def read(cls, path: Path) -> SelfTest:
        """Raises BundleError where there is none or it is not one."""
        if not path.is_file():
            raise BundleError(path, "the bundle holds no self-test", "make it with `foldrank compress`, which adds one")
        try:
            with safe_open(path, framework="np") as file:
                metadata = file.metadata() or {}
                found = {name: file.get_tensor(name) for name in ("ids", "top_ids", "top_logits", "log_sum_exp")}
        except (SafetensorError, OSError) as error:
            raise BundleError(path, f"cannot be read: {error}", "compress again") from None
        made = cls(**found, reference=metadata.get("reference", ""), int8=metadata.get("activations") == "int8")
        rows, top = made.ids.shape, made.top_ids.shape
        fits = len(rows) == 2 and len(top) == 3 and top[:2] == rows == made.log_sum_exp.shape
        if metadata.get("schema") != SCHEMA or not fits or top != made.top_logits.shape or rows[1] < 2:
            raise BundleError(path, "is not a self-test of this version", "compress again")
        return made

    def replay(self, decoder: OrtDecoder, precision: str) -> list[dict[str, Any]]:
        """One entry a check. `precision` (fp32, fp16, bf16 or int8) sets the tolerance. Raises ValidationFailed."""
        criterion = Criterion(precision)
        half = self.ids.shape[1] // 2
        whole, cached = Seen(self), Seen(self)
        whole.add(0, decoder.prefill(self.ids))
        cached.add(0, decoder.prefill(self.ids[:, :half]))
        for at in range(half, self.ids.shape[1]):
            cached.add(at, decoder.step(self.ids[:, at : at + 1]))
        return [
            {"name": name, "positions": seen.positions, "measure": "kl_nats" if criterion.coarse else "relative_error",
             "value": seen.kl_nats if criterion.coarse else seen.relative_error, "limit": criterion.limit,
             "argmax_agreement": criterion.agreement(seen), "passed": criterion.passed(seen)}
            for name, seen in (("prefill", whole), ("cached_decode", cached))
        ]


@dataclass
class Seen:
    """What a graph gave beside what was wanted; measures named as `compare.Comparison` names them."""

    wanted: SelfTest
    positions: int = 0
    _error: float = 0.0
    _kl: float = 0.0
    _gaps: list[float] = field(default_factory=list)

    def add(self, start: int, logits_NTV: Array) -> None:
        """Logits of the positions from `start` on."""
        check_finite("the graph", logits_NTV)
        logits = logits_NTV.astype(np.float64)
        where = slice(start, start + logits.shape[1])
        top, wanted = self.wanted.top_ids[:, where], self.wanted.top_logits[:, where].astype(np.float64)
        total = self.wanted.log_sum_exp[:, where].astype(np.float64)
        found, found_total = np.take_along_axis(logits, top, -1), _log_sum_exp(logits)
        self.positions += total.size
        self._error = max(self._error, float(np.abs(found - wanted).max()), float(np.abs(found_total - total).max()))
        self._kl += float(_coarse_kl(wanted - total[..., None], found - found_total[..., None]).sum())
        chosen = logits.argmax(-1)
        of_chosen = np.where(top == chosen[..., None], wanted, wanted.min(-1, keepdims=True)).max(-1)
        self._gaps.extend((wanted[..., 0] - of_chosen)[chosen != top[..., 0]].tolist())

    @property
    def largest_logit(self) -> float:
        """Of those that are stored."""
        return float(np.abs(self.wanted.top_logits).max())

    @property
    def relative_error(self) -> float:
        """Largest error of a likely token's logit or of the log-sum-exp, over the largest logit."""
        return self._error / self.largest_logit

    @property
    def kl_nats(self) -> float:
        """Mean KL over the likeliest tokens and the rest as one."""
        return max(0.0, self._kl / self.positions)

    def argmax_agreement(self, tolerance: float) -> float:
        """Share of positions with the same likeliest token, ties within `tolerance` of the largest logit aside."""
        return 1.0 - sum(gap > tolerance * self.largest_logit for gap in self._gaps) / self.positions


def precision_of(dtype: str, provider: Provider, *, int8: bool = False) -> str:
    """What a provider computes a bundle of that dtype in: fp32 products on a GPU are TF32 unless that is turned off,
    with as many bits as fp16. `int8`: the graph rounds activations to that."""
    if int8:
        return INT8
    off = provider.options.get("use_tf32", "1") in ("0", "false", "False")
    return "fp16" if dtype == "fp32" and provider.device != "cpu" and not off else dtype


def _log_sum_exp(logits: Array) -> NDArray[np.float64]:
    largest = logits.max(axis=-1, keepdims=True)
    summed: NDArray[np.float64] = np.log(np.exp(logits - largest).sum(axis=-1)) + largest[..., 0]
    return summed


def _coarse_kl(wanted: Array, found: Array) -> Array:
    """KL [..] from log probabilities [.., K] of some tokens, all others as one."""
    rest = [np.clip(1.0 - np.exp(side).sum(-1), 1e-12, 1.0) for side in (wanted, found)]
    return (np.exp(wanted) * (wanted - found)).sum(-1) + rest[0] * np.log(rest[0] / rest[1])
