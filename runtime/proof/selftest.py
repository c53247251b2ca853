"""A bundle's self-test: what the reference said at a few hundred positions, small enough to travel with the bundle.

Token ids, the reference's likeliest tokens with their logits, the log-sum-exp over the whole vocabulary, and two sums
of all logits with random signs, in which a change of any one shows. Replayed without PyTorch: short rows prefilled and
decoded with the cache, one long row prefilled. Coarse arithmetic is judged by the KL over the likeliest tokens and all
others taken as one, which is at most the whole KL (data processing inequality), and once more in float32.
Axes: N rows, T tokens, K likeliest tokens, S sums, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from foldrank.errors import BundleError
from foldrank.reports.validate import Check
from foldrank.runtime.decoding.decoder import OrtDecoder, Tokens
from foldrank.runtime.proof.compare import Array, check_finite, usual
from foldrank.runtime.proof.graph_proof import Criterion
from foldrank.runtime.proof.ways import Ways
from foldrank.tolerances import GRAPH_PROOF_FP32, GRAPH_PROOF_RARE

SCHEMA = "foldrank.selftest/2"
FILE = "selftest/selftest.safetensors"
ROWS, TOKENS, LIKELIEST, SUMS = 4, 64, 8, 2
LONG = 1024
"""Tokens of the long row at most; of it the last TOKENS positions are kept."""


@dataclass(frozen=True)
class Said:
    """What the reference said of `ids` [N, T], at the last positions of each row: `top_ids` and `top_logits` [N, <= T,
    K] likeliest first, `log_sum_exp` [N, <= T], `sums` [N, <= T, S]."""

    ids: Tokens
    top_ids: NDArray[np.int32]
    top_logits: NDArray[np.float32]
    log_sum_exp: NDArray[np.float32]
    sums: NDArray[np.float32]

    @classmethod
    def of(cls, ids_NT: Tokens, logits_of: Callable[[Tokens], Array], last: int | None = None) -> Said:
        """Ask the reference. Raises ValidationFailed where it gives NaN or infinity."""
        logits = np.asarray(logits_of(ids_NT)[:, -(last or ids_NT.shape[1]):], dtype=np.float64)
        check_finite("the reference", logits)
        top = np.argsort(-logits, axis=-1, kind="stable")[..., :LIKELIEST]
        return cls(np.ascontiguousarray(ids_NT, np.int64), top.astype(np.int32),
                   np.take_along_axis(logits, top, -1).astype(np.float32), _log_sum_exp(logits).astype(np.float32),
                   _sums(logits).astype(np.float32))

    @property
    def kept(self) -> int:
        """Positions of a row that the reference was asked of."""
        return self.top_ids.shape[1]

    @property
    def fits(self) -> bool:
        """Whether all parts are of one shape."""
        rows, top = self.ids.shape, self.top_ids.shape
        return (len(rows) == 2 and len(top) == 3 and top[0] == rows[0] and 2 <= top[1] <= rows[1]
                and top == self.top_logits.shape and top[:2] == self.log_sum_exp.shape
                and self.sums.shape == (*top[:2], SUMS))


@dataclass(frozen=True)
class SelfTest:
    """`short` rows, and a `long` one where the context is longer; `reference` said so. `limit`: largest relative error
    of arithmetic in float32. `text` and what the tokenizer made of it, empty where there was no telling."""

    short: Said
    reference: str
    long: Said | None = None
    limit: float = GRAPH_PROOF_FP32
    text: str = ""
    text_ids: Tokens = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def ids(self) -> Iterator[int]:
        """Every token that is asked."""
        for said in (self.short, self.long):
            yield from said.ids.reshape(-1).tolist() if said is not None else ()

    def bytes(self) -> bytes:
        """As the bundle stores it: safetensors."""
        parts = {"short": self.short, **({} if self.long is None else {"long": self.long})}
        whole = {f"{part}.{entry.name}": np.ascontiguousarray(getattr(said, entry.name))  # safetensors writes buffers
                 for part, said in parts.items() for entry in fields(Said)}
        told = {"schema": SCHEMA, "reference": self.reference, "limit": repr(self.limit), "text": self.text}
        return bytes(save({**whole, "text_ids": self.text_ids}, metadata=told))

    @classmethod
    def read(cls, path: Path) -> SelfTest:
        """Raises BundleError where there is none or it is not one."""
        if not path.is_file():
            raise BundleError(path, "the bundle holds no self-test", "make it with `foldrank compress`, which adds one")
        try:
            with safe_open(path, framework="np") as file:
                told, names = file.metadata() or {}, set(file.keys())
                parts = {part: Said(**{entry.name: file.get_tensor(f"{part}.{entry.name}") for entry in fields(Said)})
                         for part in ("short", "long") if part == "short" or "long.ids" in names}
                made = cls(**parts, reference=told.get("reference", ""), limit=float(told.get("limit", "nan")),
                           text=told.get("text", ""), text_ids=file.get_tensor("text_ids"))
        except (SafetensorError, OSError, ValueError) as error:
            raise BundleError(path, f"cannot be read: {error}", "compress again") from None
        fits = all(said.fits for said in parts.values()) and GRAPH_PROOF_FP32 <= made.limit <= GRAPH_PROOF_RARE
        if told.get("schema") != SCHEMA or not fits:
            raise BundleError(path, "is not a self-test of this version", "compress again")
        return made

    def replay(self, ways: Ways) -> list[Check]:
        """One check a question. Raises ValidationFailed."""
        criterion = Criterion(ways.precision, self.limit)
        checks = [criterion.check(name, seen) for name, seen in self.seen(ways.decoder)]
        if (beside := ways.beside) is None:
            return checks
        other = Criterion(beside.precision, self.limit)
        return checks + [other.check(f"{name}, {beside.name}", seen) for name, seen in self.seen(beside.decoder)]

    def seen(self, decoder: OrtDecoder) -> Iterator[tuple[str, Seen]]:
        """What the graph gives to each question."""
        ids, half = self.short.ids, self.short.ids.shape[1] // 2
        whole, cached = Seen(self.short), Seen(self.short)
        whole.add(0, decoder.prefill(ids))
        cached.add(0, decoder.prefill(ids[:, :half]))
        for at in range(half, ids.shape[1]):
            cached.add(at, decoder.step(ids[:, at : at + 1]))
        yield from (("prefill", whole), ("cached_decode", cached))
        if self.long is not None:
            far = Seen(self.long)
            far.add(0, decoder.prefill(self.long.ids)[:, -self.long.kept:])
            yield "full_context", far


@dataclass
class Seen:
    """What a graph gave beside what was wanted; measures named as `compare.Comparison` names them."""

    wanted: Said
    positions: int = 0
    _errors: list[Array] = field(default_factory=list)
    _kl: float = 0.0
    _gaps: list[float] = field(default_factory=list)

    def add(self, start: int, logits_NTV: Array) -> None:
        """Logits of the kept positions from `start` on."""
        check_finite("the graph", logits_NTV)
        logits, said = logits_NTV.astype(np.float64), self.wanted
        where = slice(start, start + logits.shape[1])
        top, wanted = said.top_ids[:, where].astype(np.int64), said.top_logits[:, where].astype(np.float64)
        total = said.log_sum_exp[:, where].astype(np.float64)
        found, found_total = np.take_along_axis(logits, top, -1), _log_sum_exp(logits)
        self.positions += total.size
        errors = (found - wanted, (found_total - total)[..., None], _sums(logits) - said.sums[:, where])
        self._errors.append(np.abs(np.concatenate(errors, axis=-1)).max(axis=-1).reshape(-1))
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
        """Largest error of a likely token's logit, of the log-sum-exp or of a sum, over the largest logit."""
        return float(max(map(np.max, self._errors))) / self.largest_logit

    @property
    def usual_error(self) -> float:
        """The same of all positions but the worst hundredth."""
        return usual(np.concatenate(self._errors)) / self.largest_logit

    @property
    def worst(self) -> Tokens:
        """The tokens that were asked."""
        return self.wanted.ids

    @property
    def kl_nats(self) -> float:
        """Mean KL over the likeliest tokens and the rest as one."""
        return max(0.0, self._kl / self.positions)

    def argmax_agreement(self, tolerance: float) -> float:
        """Share of positions with the same likeliest token, ties within `tolerance` of the largest logit aside."""
        return 1.0 - sum(gap > tolerance * self.largest_logit for gap in self._gaps) / self.positions


def _sums(logits: Array) -> NDArray[np.float64]:
    """All logits with random signs, over the root of how many they are: no two change unseen."""
    signs_VS = np.random.default_rng(0).choice((-1.0, 1.0), (logits.shape[-1], SUMS))
    found: NDArray[np.float64] = logits @ (signs_VS / np.sqrt(len(signs_VS)))
    return found


def _log_sum_exp(logits: Array) -> NDArray[np.float64]:
    largest = logits.max(axis=-1, keepdims=True)
    summed: NDArray[np.float64] = np.log(np.exp(logits - largest).sum(axis=-1)) + largest[..., 0]
    return summed


def _coarse_kl(wanted: Array, found: Array) -> Array:
    """KL [..] from log probabilities [.., K] of some tokens, all others as one."""
    rest = [np.clip(1.0 - np.exp(side).sum(-1), 1e-12, 1.0) for side in (wanted, found)]
    return (np.exp(wanted) * (wanted - found)).sum(-1) + rest[0] * np.log(rest[0] / rest[1])
