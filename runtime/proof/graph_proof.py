"""The graph proof: the ONNX graph computes what the plan says, against a reference that never saw the graph.

Four questions: the reference's logits; the same from the cache, token by token; the same beside padding; the same in a
batch. Quality plays no part here. Axes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from foldrank.graph.view.padding import Side
from foldrank.progress import SILENT, Progress, track
from foldrank.reports.validate import Check, GraphProof
from foldrank.runtime.decoding.batch import padded
from foldrank.runtime.decoding.decoder import OrtDecoder
from foldrank.runtime.proof.compare import Array, Comparison
from foldrank.tolerances import GRAPH_PROOF_FP32, GRAPH_PROOF_KL_NATS

Tokens = NDArray[np.int64]
Reference = Callable[[Tokens], Array]
"""Logits [B, T, V] of token ids [B, T], float32 or float64."""

_NAMES: dict[Side, str] = {"right": "padded", "left": "padded_left"}
_DECODED = 48
_LOGITS_AT_ONCE = 1 << 23


class Compared(Protocol):
    """Two sides' logits as `compare.Comparison` tells of them, or as far as a self-test can."""

    @property
    def relative_error(self) -> float: ...
    @property
    def kl_nats(self) -> float: ...
    def argmax_agreement(self, tolerance: float) -> float: ...


@dataclass(frozen=True)
class Criterion:
    """What counts as the same: fp32 by the largest error and the choice of token, what is coarser by mean KL."""

    precision: str
    """fp32, fp16, bf16, or int8 where activations are rounded to that."""

    @property
    def coarse(self) -> bool:
        """Whether numbers have two bytes or fewer."""
        return self.precision in GRAPH_PROOF_KL_NATS

    @property
    def limit(self) -> float:
        """Largest relative error, or mean KL in nats."""
        return GRAPH_PROOF_KL_NATS.get(self.precision, GRAPH_PROOF_FP32)

    def value(self, found: Compared) -> float:
        """What the limit is held against."""
        return found.kl_nats if self.coarse else found.relative_error

    def agreement(self, found: Compared) -> float:
        """Argmax agreement, ties within the tolerance aside."""
        return found.argmax_agreement(GRAPH_PROOF_FP32)

    def passed(self, found: Compared) -> bool:
        """Whether both sides are the same."""
        return self.value(found) <= self.limit and (self.coarse or self.agreement(found) == 1.0)


def prove(
    decoder: OrtDecoder, reference: Reference, ids_NT: Tokens, *, described: str, precision: str,
    sides: Sequence[Side] = ("right",), progress: Progress = SILENT,
) -> GraphProof:
    """The `graph` part of validate.json for windows of token ids [N, T], T at least 8, N at least 2.

    `described` names the reference, `precision` is the graph's, `sides` are where its rows may be padded. Logits of a
    few windows at a time are held. Raises ValidationFailed on NaN.
    """
    criterion = Criterion(precision)
    logits = _against_reference(decoder, reference, ids_NT, progress)
    checks = {
        "reference": logits,
        "cached_decode": _cached(decoder, ids_NT[:2]),
        **{_NAMES[side]: beside_padding(decoder, ids_NT[:2], side) for side in sides},
        "batch": _batched(decoder, ids_NT[:2]),
    }
    padded_errors = [checks[_NAMES[side]].relative_error for side in sides]
    return GraphProof(
        reference=described,
        positions=logits.positions,
        max_relative_error=logits.relative_error,
        argmax_agreement=criterion.agreement(logits),
        kl_nats=logits.kl_nats,
        largest_logit=logits.largest_logit,
        cached_decode_error=checks["cached_decode"].relative_error,
        padded_error=max(padded_errors, default=None),
        batch_error=checks["batch"].relative_error,
        measure="kl_nats" if criterion.coarse else "max_relative_error",
        limit=criterion.limit,
        checks=[
            Check(name=name, positions=found.positions, value=criterion.value(found),
                  argmax_agreement=criterion.agreement(found), passed=criterion.passed(found))
            for name, found in checks.items()
        ],
        passed=all(map(criterion.passed, checks.values())),
    )


def rows_at_once(tokens: int, vocabulary: int) -> int:
    """Windows whose logits together stay within some 64 MiB, at least one."""
    return max(1, min(8, _LOGITS_AT_ONCE // (tokens * vocabulary)))


def _against_reference(decoder: OrtDecoder, reference: Reference, ids_NT: Tokens, progress: Progress) -> Comparison:
    found = Comparison(str(decoder.session.model))
    rows = rows_at_once(ids_NT.shape[1], decoder.prefill(ids_NT[:1, :1]).shape[-1])
    starts = range(0, len(ids_NT), rows)
    for start in track(starts, "graph proof", len(starts), progress):
        ids_BT = ids_NT[start : start + rows]
        found.add(reference(ids_BT), decoder.prefill(ids_BT))
    return found


def _cached(decoder: OrtDecoder, ids_BT: Tokens) -> Comparison:
    """A prompt, then one token at a time, then (row by row) the rest at once, against everything at once."""
    tokens = ids_BT.shape[1]
    prompt = max(1, tokens // 4)
    decoded = min(prompt + _DECODED, tokens - 1)
    whole_BTV = decoder.prefill(ids_BT)
    found = Comparison(f"{decoder.session.model} with its cache")
    found.add(whole_BTV[:, :prompt], decoder.prefill(ids_BT[:, :prompt]))
    for at in range(prompt, decoded):
        found.add(whole_BTV[:, at : at + 1], decoder.step(ids_BT[:, at : at + 1]))
    for row in range(len(ids_BT)):  # GroupQueryAttention takes several tokens after a past for one row only
        decoder.prefill(ids_BT[row : row + 1, :decoded])
        found.add(whole_BTV[row : row + 1, decoded:], decoder.step(ids_BT[row : row + 1, decoded:]))
    return found


def beside_padding(decoder: OrtDecoder, ids_BT: Tokens, side: Side) -> Comparison:
    """A short row padded on that side beside a long one, against both alone: prompt, then one decoded token."""
    rows = [ids_BT[0, :-1], ids_BT[1, : max(1, ids_BT.shape[1] // 2)]]
    prompt_BT, mask_BT = padded([row.tolist() for row in rows], side)
    next_BT = ids_BT[:2, -1:]
    prompt_BTV, step_BTV = decoder.prefill(prompt_BT, mask_BT), decoder.step(next_BT)
    found = Comparison(f"{decoder.session.model} beside padding on the {side}")
    for number, row in enumerate(rows):
        found.add(decoder.prefill(row[None])[0], prompt_BTV[number][mask_BT[number] == 1])
        found.add(decoder.step(next_BT[number : number + 1])[0], step_BTV[number])
    return found


def _batched(decoder: OrtDecoder, ids_BT: Tokens) -> Comparison:
    """Rows together against each alone."""
    together_BTV = decoder.prefill(ids_BT)
    found = Comparison(f"{decoder.session.model} in a batch")
    for row in range(len(ids_BT)):
        found.add(decoder.prefill(ids_BT[row : row + 1]), together_BTV[row : row + 1])
    return found
