"""The graph proof: the ONNX graph computes what the plan says, against a reference that never saw the graph.

Its questions: the reference's logits; the same at the full context; the same from the cache, token by token; beside
padding; in a batch; and where the graph's own arithmetic is coarser than float32, the same in float32. Quality plays no
part here. Axes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from foldrank.graph.view.padding import Side
from foldrank.progress import SILENT, Progress, track
from foldrank.reports.validate import Check, GraphProof, Measure
from foldrank.runtime.decoding.batch import padded
from foldrank.runtime.decoding.decoder import OrtDecoder
from foldrank.runtime.proof.compare import Array, Comparison
from foldrank.tolerances import GRAPH_PROOF_FP32, GRAPH_PROOF_KL_NATS, GRAPH_PROOF_MOST, IN_FLOAT32

Tokens = NDArray[np.int64]
Reference = Callable[[Tokens], Array]
"""Logits [B, T, V] of token ids [B, T], float32 or float64."""

_NAMES: dict[Side, str] = {"right": "padded", "left": "padded_left"}
_DECODED, _DECODED_TOGETHER = 48, 4
"""Single tokens of one row, as most users decode, and of two at once: another kernel, where a few bits are unpacked for
every step."""
_TOGETHER = 256
"""Tokens of the two rows that are asked for from the cache, beside padding and in a batch."""
_LOGITS_AT_ONCE = 1 << 23


class Compared(Protocol):
    """Two sides' logits as `compare.Comparison` tells of them, or as far as a self-test can."""

    @property
    def positions(self) -> int: ...
    @property
    def relative_error(self) -> float: ...
    @property
    def usual_error(self) -> float: ...
    @property
    def worst(self) -> Tokens | None: ...
    @property
    def kl_nats(self) -> float: ...
    def argmax_agreement(self, tolerance: float) -> float: ...


@dataclass(frozen=True)
class Criterion:
    """What counts as the same: fp32 by the largest error and the choice of token, what is coarser by mean KL."""

    precision: str
    """fp32, fp16, bf16, or int8 where activations are rounded to that."""
    allowed: float = GRAPH_PROOF_FP32
    """Largest relative error in fp32; above GRAPH_PROOF_MOST for what errs so at a hundredth of positions only."""

    @property
    def coarse(self) -> bool:
        """Whether numbers have two bytes or fewer."""
        return self.precision in GRAPH_PROOF_KL_NATS

    @property
    def measure(self) -> Measure:
        """What the limit is one of."""
        return "kl_nats" if self.coarse else "max_relative_error"

    def limit(self, found: Compared) -> float:
        """Largest relative error, or mean KL in nats."""
        rare = self.allowed <= GRAPH_PROOF_MOST or found.usual_error <= GRAPH_PROOF_FP32
        return GRAPH_PROOF_KL_NATS.get(self.precision, self.allowed if rare else GRAPH_PROOF_FP32)

    def value(self, found: Compared) -> float:
        """What the limit is held against."""
        return found.kl_nats if self.coarse else found.relative_error

    def agreement(self, found: Compared) -> float:
        """Argmax agreement, ties within the tolerance aside."""
        return found.argmax_agreement(GRAPH_PROOF_MOST if self.coarse else self.limit(found))

    def passed(self, found: Compared) -> bool:
        """Whether both sides are the same."""
        return self.value(found) <= self.limit(found) and (self.coarse or self.agreement(found) == 1.0)

    def check(self, name: str, found: Compared) -> Check:
        """As a report has it."""
        return Check(name=name, positions=found.positions, value=self.value(found), limit=self.limit(found),
                     measure=self.measure, argmax_agreement=self.agreement(found), passed=self.passed(found))


@dataclass(frozen=True)
class Beside:
    """The same graph opened in another arithmetic, looked at on its first positions: one check, `name`."""

    name: str
    decoder: OrtDecoder
    precision: str


class Allowed(Protocol):
    """The limit of fp32 for a model whose graph was found so far from it, or `margin` times that: what amplifies
    rounding does so at some tokens a hundred times more than at others."""

    def __call__(self, found: Sequence[Compared], margin: float = 1.0) -> float: ...


def fixed(found: Sequence[Compared], margin: float = 1.0) -> float:
    """The limit of a model that nobody can ask."""
    return GRAPH_PROOF_FP32


def prove(
    decoder: OrtDecoder, reference: Reference, ids_NT: Tokens, *, described: str, precision: str,
    beside: Beside | None = None, long_1T: Tokens | None = None, sides: Sequence[Side] = ("right",),
    allowed: Allowed = fixed, progress: Progress = SILENT,
) -> GraphProof:
    """The `graph` part of validate.json for windows of token ids [N, T], T at least 8, N at least 2.

    `described` names the reference, `precision` is the decoder's, `beside` the same graph in another, `long_1T` one
    window as long as the context. `sides` are where rows may be padded. Logits of a few windows at a time are held.
    Raises ValidationFailed on NaN.
    """
    logits, other = _against_reference(decoder, beside, reference, ids_NT, progress)
    ids_2T = ids_NT[:2, :_TOGETHER]
    together_2TV = decoder.prefill(ids_2T)
    found = {
        "reference": logits,
        **({} if long_1T is None else {"full_context": _whole(decoder, beside, reference, long_1T, other)}),
        "cached_decode": _cached(decoder, ids_2T, together_2TV),
        **_beside_padding(decoder, ids_2T, sides),
        "batch": _batched(decoder, ids_2T, together_2TV),
    }
    in_float32 = list(found.values()) if precision == "fp32" else []
    if beside is not None and beside.precision == "fp32":
        in_float32.append(other)
    limit = allowed(in_float32)
    criterion = Criterion(precision, limit)
    checks = [criterion.check(name, compared) for name, compared in found.items()]
    if beside is not None:
        checks.append(Criterion(beside.precision, limit).check(beside.name, other))
    return GraphProof(
        reference=described,
        positions=logits.positions,
        max_relative_error=logits.relative_error,
        argmax_agreement=criterion.agreement(logits),
        kl_nats=logits.kl_nats,
        largest_logit=logits.largest_logit,
        cached_decode_error=found["cached_decode"].relative_error,
        padded_error=max((found[_NAMES[side]].relative_error for side in sides), default=None),
        batch_error=found["batch"].relative_error,
        measure=criterion.measure,
        limit=criterion.limit(logits),
        checks=checks,
        passed=all(check.passed for check in checks),
    )


def rows_at_once(tokens: int, vocabulary: int) -> int:
    """Windows whose logits together stay within some 64 MiB, at least one."""
    return max(1, min(8, _LOGITS_AT_ONCE // (tokens * vocabulary)))


def _against_reference(
    decoder: OrtDecoder, beside: Beside | None, reference: Reference, ids_NT: Tokens, progress: Progress
) -> tuple[Comparison, Comparison]:
    """Of the graph on all windows, and of what stands beside it on the first, with the reference asked once."""
    found = Comparison(str(decoder.session.model))
    other = Comparison(found.what if beside is None else f"{found.what} ({beside.name})")
    rows = rows_at_once(ids_NT.shape[1], decoder.prefill(ids_NT[:1, :1]).shape[-1])
    starts = range(0, len(ids_NT), rows)
    for start in track(starts, "graph proof", len(starts), progress):
        ids_BT = ids_NT[start : start + rows]
        wanted_BTV = reference(ids_BT)
        found.add(wanted_BTV, decoder.prefill(ids_BT), ids_BT)
        if beside is not None and other.positions < IN_FLOAT32:
            other.add(wanted_BTV, beside.decoder.prefill(ids_BT), ids_BT)
    return found, other


def _whole(
    decoder: OrtDecoder, beside: Beside | None, reference: Reference, ids_1T: Tokens, other: Comparison
) -> Comparison:
    found = Comparison(f"{decoder.session.model} at {ids_1T.shape[1]} tokens")
    wanted_1TV = reference(ids_1T)
    found.add(wanted_1TV, decoder.prefill(ids_1T), ids_1T)
    if beside is not None:
        other.add(wanted_1TV, beside.decoder.prefill(ids_1T), ids_1T)
    return found


def _cached(decoder: OrtDecoder, ids_BT: Tokens, whole_BTV: Array) -> Comparison:
    """A prompt, then one token at a time, all rows together and the first alone, then (row by row) the rest at once,
    against everything at once."""
    tokens = ids_BT.shape[1]
    prompt = max(1, tokens // 4)
    found = Comparison(f"{decoder.session.model} with its cache")
    for rows, most in ((len(ids_BT), _DECODED_TOGETHER), (1, _DECODED)):
        found.add(whole_BTV[:rows, :prompt], decoder.prefill(ids_BT[:rows, :prompt]), ids_BT)
        for at in range(prompt, min(prompt + most, tokens - 1)):
            found.add(whole_BTV[:rows, at : at + 1], decoder.step(ids_BT[:rows, at : at + 1]), ids_BT)
    for row in range(len(ids_BT)):  # GroupQueryAttention takes several tokens after a past for one row only
        decoder.prefill(ids_BT[row : row + 1, :prompt])
        found.add(whole_BTV[row : row + 1, prompt:], decoder.step(ids_BT[row : row + 1, prompt:]), ids_BT)
    return found


def beside_padding(decoder: OrtDecoder, ids_BT: Tokens, side: Side) -> Comparison:
    """A short row padded on that side beside a long one, against both alone: prompt, then one decoded token."""
    return _beside_padding(decoder, ids_BT, [side])[_NAMES[side]]


def _beside_padding(decoder: OrtDecoder, ids_BT: Tokens, sides: Sequence[Side]) -> dict[str, Comparison]:
    rows, next_BT = [ids_BT[0, :-1], ids_BT[1, : max(1, ids_BT.shape[1] // 2)]], ids_BT[:2, -1:]
    alone = [(decoder.prefill(row[None])[0], decoder.step(next_BT[number : number + 1])[0])
             for number, row in enumerate(rows)] if sides else []
    return {_NAMES[side]: _padded_on(decoder, rows, ids_BT, side, alone) for side in sides}


def _padded_on(
    decoder: OrtDecoder, rows: Sequence[Tokens], ids_BT: Tokens, side: Side, alone: Sequence[tuple[Array, Array]]
) -> Comparison:
    prompt_BT, mask_BT = padded([row.tolist() for row in rows], side)
    prompt_BTV, step_BTV = decoder.prefill(prompt_BT, mask_BT), decoder.step(ids_BT[:2, -1:])
    found = Comparison(f"{decoder.session.model} beside padding on the {side}")
    for number, (prompt, step) in enumerate(alone):
        found.add(prompt, prompt_BTV[number][mask_BT[number] == 1], ids_BT)
        found.add(step, step_BTV[number], ids_BT)
    return found


def _batched(decoder: OrtDecoder, ids_BT: Tokens, together_BTV: Array) -> Comparison:
    """Rows together against each alone."""
    found = Comparison(f"{decoder.session.model} in a batch")
    for row in range(len(ids_BT)):
        found.add(decoder.prefill(ids_BT[row : row + 1]), together_BTV[row : row + 1], ids_BT)
    return found
