"""Measured loss of a compressed model against the original, in nats a token, on windows kept for measuring.

Mean KL(original || compressed): the loss the original itself expects, so far less noisy on few tokens than cross
entropy is. The input of every block is kept, so that a candidate runs only what lies above what it touches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foldrank.plans.models.block import Block
from foldrank.plans.models.decoder import Decoder

BATCH_TOKENS = 2048
"""Tokens whose logits are held at once."""

LARGEST = 1 << 27
"""Most probabilities of the original that are held (tokens * vocabulary, float32); their logs are held beside them."""


@dataclass(frozen=True)
class Meter:
    """`wanted` [N, T, V]: log probabilities of the original for the windows `ids` [N, T]; `shares`: the probabilities;
    `start` [N, T, C]: embeddings of the windows."""

    decoder: Decoder
    ids: np.ndarray
    start: Tensor
    wanted: Tensor
    shares: Tensor

    @classmethod
    def of(cls, decoder: Decoder, ids_NT: np.ndarray) -> Meter:
        """Run the original once, on as many windows as memory for their probabilities allows (at least one)."""
        first = _log_probabilities(decoder, decoder.forward(ids_NT[:1]))
        fitting = max(1, LARGEST // first.numel())
        used = ids_NT[:fitting]
        rows = [first, *(_log_probabilities(decoder, decoder.forward(row[None])) for row in used[1:])]
        wanted = torch.cat(rows)
        return cls(decoder, used, decoder.embed(used), wanted, wanted.exp())

    def few(self, windows: int) -> Meter:
        """The same for the first windows only."""
        return Meter(self.decoder, self.ids[:windows], self.start[:windows], self.wanted[:windows],
                     self.shares[:windows])

    def inputs(self, blocks: Sequence[Block], known: Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
        """The input [N, T, C] of every block; those `known` already, lowest first, are not computed again."""
        found = list(known) or [self.start]
        with torch.no_grad():
            for block in blocks[len(found) - 1 : -1]:
                found.append(self.decoder.run(block, found[-1]))
        return tuple(found)

    def loss(self, hidden_NTC: Tensor, blocks: Sequence[Block]) -> float:
        """Mean KL in nats where these blocks stand above this hidden state [N, T, C]."""
        total, size = 0.0, max(1, BATCH_TOKENS // self.ids.shape[1])
        parts = (tensor.split(size) for tensor in (self.wanted, self.shares, hidden_NTC))
        for wanted, shares, hidden in zip(*parts, strict=True):
            found = self._logs(hidden, blocks)
            total += float(torch.sub(wanted, found, out=found).mul_(shares).sum())
        return total / self.ids.size

    def nats(self, blocks: Sequence[Block]) -> float:
        """Mean next-token cross entropy of the model with these blocks: the log of its perplexity."""
        total = 0.0
        for ids, hidden in zip(self.ids, self.start, strict=True):
            logs = self._logs(hidden[None], blocks)[0, :-1]
            targets = torch.from_numpy(ids[1:, None]).to(logs.device)
            total -= float(logs.gather(-1, targets).sum())
        return total / (self.ids.size - len(self.ids))

    def _logs(self, hidden_NTC: Tensor, blocks: Sequence[Block]) -> Tensor:
        with torch.no_grad():
            for block in blocks:
                hidden_NTC = self.decoder.run(block, hidden_NTC)
        return _log_probabilities(self.decoder, hidden_NTC)


def _log_probabilities(decoder: Decoder, hidden_NTC: Tensor) -> Tensor:
    with torch.no_grad():
        return decoder.logits(hidden_NTC).to(torch.float32).log_softmax(-1)
