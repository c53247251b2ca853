"""Measured loss of a compressed model against the original, in nats a token, on windows kept for measuring.

Mean KL(original || compressed): the loss the original itself expects, so far less noisy on few tokens than cross
entropy is. Of a state the input of every block is kept, so that a candidate runs only what lies above what it touches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from foldrank.plans.models.block import Block
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.models.slopes import AT_ONCE, slopes
from foldrank.plans.models.words import Words

LARGEST = 1 << 25
"""Logits that are held at once (tokens * vocabulary, float32), at least one window's."""


@dataclass(frozen=True)
class Meter:
    """`wanted`: what the original says of the windows `ids` [N, T], of which `start` [N, T, C] are the embeddings."""

    decoder: Decoder
    ids: np.ndarray
    start: Tensor
    wanted: Words
    windows: slice = field(default_factory=lambda: slice(None))
    """Which of the measuring windows it measures on."""

    @classmethod
    def of(cls, decoder: Decoder, ids_NT: np.ndarray) -> Meter:
        """Run the original once."""
        start = hidden = decoder.embed(ids_NT)
        with torch.no_grad():
            for block in decoder.blocks:
                hidden = decoder.run(block, hidden)
            wanted = Words.joined(Words.of(decoder.logits(row[None])) for row in hidden)
        return cls(decoder, ids_NT, start, wanted)

    def few(self, windows: int) -> Meter:
        """The same for the first windows only."""
        return self._on_part(slice(windows))

    def every(self, step: int) -> Meter:
        """The same for one of so many windows, spread over them."""
        return self._on_part(slice(None, None, step))

    def _on_part(self, part: slice) -> Meter:
        return Meter(self.decoder, self.ids[part], self.start[part], self.wanted[part], part)

    def inputs(self, blocks: Sequence[Block], known: Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
        """The input [N, T, C] of every block; those `known` already, lowest first, are not computed again."""
        found = list(known[: len(blocks)]) or [self.start]
        with torch.no_grad():
            for block in blocks[len(found) - 1 : -1]:
                found.append(self.decoder.run(block, found[-1]))
        return tuple(found)

    def loss(self, hidden_NTC: Tensor, blocks: Sequence[Block]) -> float:
        """Mean KL in nats where these blocks stand above this hidden state [N, T, C]."""
        total, size = 0.0, max(1, LARGEST // (self.ids.shape[1] * self.decoder.vocabulary))
        for first in range(0, len(self.ids), size):
            part = slice(first, first + size)
            logits = self._logits(hidden_NTC[part], blocks)
            total += float(self.wanted[part].divergence(logits).sum(dtype=torch.float64))
        return total / self.ids.size

    def slopes(self, blocks: Sequence[Block]) -> tuple[Tensor, ...]:
        """Gradient of the mean KL by every block's output [N, T, C] where the model has these blocks. Cost: a backward
        pass through all of it, some tokens at a time."""
        size = max(1, AT_ONCE // self.ids.shape[1])
        found = tuple(torch.empty_like(self.start) for _ in blocks)  # parts that are joined are held twice

        def lost(wanted: Words, logits: Tensor) -> Tensor:
            return wanted.divergence(logits).sum() / self.ids.size

        for first in range(0, len(self.ids), size):
            part = slice(first, first + size)
            of_part = slopes(self.decoder, blocks, self.start[part], partial(lost, self.wanted[part]))
            for held, slope in zip(found, of_part, strict=True):
                held[part] = slope
        return found

    def on(self, decoder: Decoder) -> Meter:
        """The same windows, and the same original, for a model with another head or table of words."""
        return Meter(decoder, self.ids, decoder.embed(self.ids), self.wanted)

    def whole(self) -> float:
        """Mean KL in nats of this decoder as it is."""
        return self.loss(self.start, self.decoder.blocks)

    def nats(self, blocks: Sequence[Block]) -> float:
        """Mean next-token cross entropy of the model with these blocks: the log of its perplexity."""
        total = 0.0
        for ids, hidden in zip(self.ids, self.start, strict=True):
            logs = self._logits(hidden[None], blocks)[0, :-1].log_softmax(-1)
            targets = torch.from_numpy(ids[1:, None]).to(logs.device)
            total -= float(logs.gather(-1, targets).sum())
        return total / (self.ids.size - len(self.ids))

    def _logits(self, hidden_NTC: Tensor, blocks: Sequence[Block]) -> Tensor:
        with torch.no_grad():
            for block in blocks:
                hidden_NTC = self.decoder.run(block, hidden_NTC)
            return self.decoder.logits(hidden_NTC).to(torch.float32)
