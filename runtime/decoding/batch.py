"""Prompts continued with ONNX Runtime, in one batch: short rows are padded, each ends and draws by itself.

A row's tokens are those that its prompt would get alone, as far as rounding goes: kernels for one row and for many may
sum in another order. Axes: B rows, T tokens of the longest prompt, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from foldrank.graph.view.padding import Side
from foldrank.runtime.decoding.decoder import OrtDecoder, Tokens
from foldrank.runtime.decoding.generate import Generated, Tokenizer, Told
from foldrank.runtime.decoding.prompts import check_prompts
from foldrank.runtime.decoding.sampling import Sampling, choose
from foldrank.runtime.providers.provider import Provider
from foldrank.runtime.sessions.session import Session


@dataclass
class Row:
    """One prompt of a batch, a random stream that no other row draws from, and its tokens so far."""

    prompt: Sequence[int]
    random: np.random.Generator
    new: list[int] = field(default_factory=list)

    def ended(self, ends: Collection[int]) -> bool:
        """Whether its last token ends the text."""
        return bool(self.new) and self.new[-1] in ends


Heard = Callable[[Row], None]


def with_onnxruntime(
    folder: Path, prompts: Sequence[str], provider: Provider, tokenizer: Tokenizer, *, tokens: int, sampling: Sampling,
    context: int, ends: Collection[int], threads: int | None, told: Told | None = None,
) -> list[Generated]:
    """Each prompt's continuation: at most `tokens` new tokens, fewer at a token of `ends` or where the context ends.

    Prompt n (from 0) draws its tokens as it would alone with the seed + n. `seconds` are those of all together; `told`
    is handed each new piece of a lone prompt's text. The logits of a whole prompt are in memory at once: B x T x V
    numbers. Raises SourceError, and as OrtDecoder.open.
    """
    ids = [tokenizer.encode(prompt) for prompt in prompts]
    check_prompts(folder, [len(row) for row in ids], context)
    decoder = OrtDecoder.open(folder, provider, threads=threads)
    heard = _nobody if told is None or len(prompts) > 1 else _telling(told, tokenizer, ends)
    started = time.perf_counter()
    new = continued(decoder, ids, tokens=tokens, sampling=sampling, context=context, ends=ends, heard=heard)
    seconds = time.perf_counter() - started
    return [
        Generated(len(prompt), row, _text(row, tokenizer, ends), seconds, "onnxruntime")
        for prompt, row in zip(ids, new, strict=True)
    ]


def _text(new: Sequence[int], tokenizer: Tokenizer, ends: Collection[int]) -> str:
    """Of new tokens, without the one that ended them."""
    return tokenizer.decode(list(new[:-1] if new[-1] in ends else new))


def _telling(told: Told, tokenizer: Tokenizer, ends: Collection[int]) -> Heard:
    """Hands over what a row's text has grown by; half a character waits for the rest."""
    shown = 0

    def heard(row: Row) -> None:
        nonlocal shown
        text = _text(row.new, tokenizer, ends)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            told(text[shown:])
            shown = len(text)

    return heard


def _nobody(_row: Row) -> None:
    """Nobody listens."""


def continued(
    decoder: OrtDecoder, prompts: Sequence[Sequence[int]], *, tokens: int, sampling: Sampling, context: int,
    ends: Collection[int], heard: Heard = _nobody,
) -> list[list[int]]:
    """New tokens of every prompt, in the order of the prompts; the last one is of `ends` where it ended by itself.
    `heard` is told of each row that got a token."""
    side = padding_side(decoder.session)
    new: dict[int, list[int]] = {}
    for batch in batches([len(prompt) for prompt in prompts], tokens, context, padded=side is not None):
        rows = [Row(prompts[number], np.random.default_rng(sampling.seed + number)) for number in batch]
        budget = min(tokens, context - max(len(row.prompt) for row in rows))
        _decode(decoder, rows, side or "right", budget, sampling, ends, heard)
        new |= {number: row.new for number, row in zip(batch, rows, strict=True)}
    return [new[number] for number in range(len(prompts))]


def padding_side(session: Session) -> Side | None:
    """Where short rows are best padded; None: nowhere for sure (`graph.padding` tells every side).

    On the right for GroupQueryAttention: it is all that older bundles take. Other graphs are told positions, and
    padding on the left keeps a row's cache in one piece, as sliding windows want it.
    """
    if "attention_mask" not in session.inputs:
        return None
    if "GroupQueryAttention" in session.operators:
        return "right"
    return "left" if "position_ids" in session.inputs else None


def batches(lengths: Sequence[int], tokens: int, context: int, *, padded: bool) -> list[list[int]]:
    """Which prompts are decoded together: all, where rows may be padded, else those of equal length.

    A prompt that the context cuts short goes alone: beside it the others would run past the context or be cut too.
    """
    together: dict[object, list[int]] = {}
    for number, length in enumerate(lengths):
        whole = length + tokens <= context
        key: object = ("all" if whole else ("alone", number)) if padded else length
        together.setdefault(key, []).append(number)
    return list(together.values())


def padded(prompts: Sequence[Sequence[int]], side: Side) -> tuple[Tokens, Tokens]:
    """Token ids and mask [B, T]; padding holds token 0 and no one looks at it."""
    longest = max(map(len, prompts))
    ids_BT = np.zeros((len(prompts), longest), np.int64)
    mask_BT = np.zeros_like(ids_BT)
    for row, prompt in enumerate(prompts):
        real = slice(len(prompt)) if side == "right" else slice(longest - len(prompt), longest)
        ids_BT[row, real], mask_BT[row, real] = prompt, 1
    return ids_BT, mask_BT


def _decode(
    decoder: OrtDecoder, rows: Sequence[Row], side: Side, budget: int, sampling: Sampling, ends: Collection[int],
    heard: Heard,
) -> None:
    """Decode a batch until each row has ended or got its budget. An ended row is fed on and not listened to."""
    ids_BT, mask_BT = padded([row.prompt for row in rows], side)
    last_B = mask_BT.shape[1] - 1 - mask_BT[:, ::-1].argmax(axis=1)
    logits_BV = decoder.prefill(ids_BT, mask_BT)[np.arange(len(rows)), last_B]
    for left in range(budget, 0, -1):
        for row, logits_V in zip(rows, logits_BV, strict=True):
            if not row.ended(ends):
                row.new.append(choose(logits_V, sampling, row.random))
                heard(row)
        if left == 1 or all(row.ended(ends) for row in rows):
            return
        logits_BV = decoder.step(np.array([row.new[-1:] for row in rows], np.int64))[:, -1]
