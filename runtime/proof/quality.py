"""What the approximation cost: the compressed bundle against the dense one on held-out text, both through ONNX Runtime.

Non-overlapping windows; every token of a window but the first is predicted. Axes: N windows or predictions, T tokens,
V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np

from foldrank.model.context import usable
from foldrank.model.opening import PLAIN, Opening
from foldrank.progress import SILENT, Progress, track
from foldrank.reports.validate import Quality
from foldrank.runtime.decoding.decoder import OrtDecoder
from foldrank.runtime.proof.compare import Array, check_finite, kl_divergence, log_softmax, pieces
from foldrank.runtime.proof.graph_proof import Tokens, rows_at_once

_PROMPTS, _PROMPT, _CONTINUED = 8, 32, 64


@dataclass
class Sums:
    """Sums over predicted tokens: negative log likelihoods and KL(dense || compressed) in nats, equal first choices."""

    tokens: int = 0
    dense_nats: float = 0.0
    nats: float = 0.0
    kl_sum: float = 0.0
    agreeing: int = 0

    def add(self, dense_NV: Array, small_NV: Array, targets_N: Tokens) -> None:
        """Count the predictions of both for the same targets. Raises ValidationFailed on NaN."""
        for dense, small, targets in pieces(dense_NV, small_NV, targets_N[:, None]):
            check_finite("the dense bundle", dense)
            check_finite("the compressed bundle", small)
            dense_log, small_log = log_softmax(dense), log_softmax(small)
            self.tokens += len(targets)
            self.dense_nats -= float(np.take_along_axis(dense_log, targets, axis=-1).sum())
            self.nats -= float(np.take_along_axis(small_log, targets, axis=-1).sum())
            self.kl_sum += float(kl_divergence(dense_log, small_log).sum())
            self.agreeing += int((dense.argmax(axis=-1) == small.argmax(axis=-1)).sum())

@dataclass(frozen=True)
class Greedy:
    """What both wrote after `prompts` of `prompt_tokens`, at most `continued_tokens` each; `prefixes`: how many tokens
    of each were equal."""

    prompts: list[Tokens]
    dense: list[Tokens]
    small: list[Tokens]
    prefixes: list[int]
    prompt_tokens: int
    continued_tokens: int


def measure(
    dense: OrtDecoder, small: OrtDecoder, ids_NT: Tokens, progress: Progress = SILENT, *, opening: Opening = PLAIN
) -> tuple[Quality, Greedy]:
    """The `quality` part of validate.json for windows of token ids [N, T], and what both wrote. Raises ValidationFailed
    on NaN.

    Windows longer than the dense model can use are cut: `window` in the result says to what. `opening`: what each
    window starts with; it is never predicted.
    """
    found = Sums()
    ids_NT = usable(ids_NT, partial(position_losses, dense), opening=opening)
    window = ids_NT.shape[1]
    rows = rows_at_once(2 * window, dense.prefill(ids_NT[:1, :1]).shape[-1])
    starts = range(0, len(ids_NT), rows)
    for start in track(starts, "quality", len(starts), progress):
        ids_BT = ids_NT[start : start + rows]
        dense_BTV, small_BTV = dense.prefill(ids_BT), small.prefill(ids_BT)
        flat = (-1, dense_BTV.shape[-1])
        found.add(dense_BTV[:, :-1].reshape(flat), small_BTV[:, :-1].reshape(flat), ids_BT[:, 1:].reshape(-1))
    greedy = greedy_prefix(dense, small, ids_NT, progress)
    before, after = found.dense_nats / found.tokens, found.nats / found.tokens
    return Quality(
        tokens=found.tokens,
        dense_perplexity=math.exp(before),
        perplexity=math.exp(after),
        perplexity_ratio=math.exp(after - before),
        kl_nats=max(0.0, found.kl_sum / found.tokens),
        top1_agreement=found.agreeing / found.tokens,
        window=window,
        windows=len(ids_NT),
        greedy_prefix_tokens=sum(greedy.prefixes) / len(greedy.prefixes),
        greedy_prefixes=greedy.prefixes,
        greedy_prompt_tokens=greedy.prompt_tokens,
        greedy_continued_tokens=greedy.continued_tokens,
    ), greedy


def position_losses(dense: OrtDecoder, ids_NT: Tokens) -> Array:
    """Mean next-token loss in nats at every position but the last [T - 1]."""
    total = np.zeros(ids_NT.shape[1] - 1)
    for ids_1T in ids_NT[:, None]:
        logs_PV = log_softmax(dense.prefill(ids_1T)[0, :-1])
        total -= np.take_along_axis(logs_PV, ids_1T[0, 1:, None], axis=-1)[:, 0]
    return total / len(ids_NT)


def greedy_prefix(dense: OrtDecoder, small: OrtDecoder, ids_NT: Tokens, progress: Progress = SILENT) -> Greedy:
    """How many tokens both write alike before they part, for prompts from the start of the first windows. As many are
    written at once as their logits stay small: a token of one row costs a run over all weights."""
    prompt = max(1, min(_PROMPT, ids_NT.shape[1] // 2))
    continued = min(_CONTINUED, ids_NT.shape[1] - prompt)
    prompts_PT = ids_NT[:_PROMPTS, :prompt]
    rows = rows_at_once(prompt, dense.prefill(prompts_PT[:1, :1]).shape[-1])
    starts = range(0, len(prompts_PT), rows)
    written = [both for start in track(starts, "greedy prefix", len(starts), progress)
               for both in zip(*(side.generate(prompts_PT[start : start + rows], continued)
                                 for side in (dense, small)), strict=True)]
    return Greedy(list(prompts_PT), [first for first, _ in written], [second for _, second in written],
                  [common_prefix(*both) for both in written], prompt, continued)


def common_prefix(first_T: Tokens, second_T: Tokens) -> int:
    """Number of leading equal tokens."""
    differing = np.flatnonzero(first_T != second_T)
    return int(differing[0]) if differing.size else len(first_T)
