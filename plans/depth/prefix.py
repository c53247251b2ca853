"""Similarity of the original to candidates with windows of blocks merged, as cheaply as it can be told for sure.

The original runs once and every block's input is kept (blocks * windows * tokens * width numbers). Blocks under a
candidate are always the original's, so a candidate runs only the merged block and what lies above it; and of one that
cannot pass any more the other samples are not run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from foldrank.edits.fold_blocks import FoldBlocks
from foldrank.plans.depth.similarity import cosines
from foldrank.plans.depth.windows import Window
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.models.wide import wide
from foldrank.plans.shelf import Figures
from foldrank.plans.simulate import apply_edits

AT_ONCE = 4
"""Samples that a candidate is run on before it is asked whether it can still pass."""

ROUNDING = 1e-12
"""What a mean of cosines may be off by."""


@dataclass(frozen=True)
class PrefixCache:
    """The original's hidden states: the input [N, T, C] of every block, and what candidates are compared by; `fold`
    says what merges a window, `compared` what of the last state is looked at."""

    decoder: Decoder
    inputs: tuple[Tensor, ...]
    final: Tensor
    fold: Callable[[Window], FoldBlocks]
    compared: Callable[[Tensor], Tensor]

    @classmethod
    def of(
        cls, decoder: Decoder, ids_NT: np.ndarray, fold: Callable[[Window], FoldBlocks],
        compared: Callable[[Tensor], Tensor],
    ) -> PrefixCache:
        """Run the original once."""
        decoder = wide(decoder)
        hidden, inputs = decoder.embed(ids_NT), []
        with torch.no_grad():
            for block in decoder.blocks:
                inputs.append(hidden)
                hidden = decoder.run(block, hidden)
            return cls(decoder, tuple(inputs), compared(hidden), fold, compared)

    def similarity(self, committed: tuple[Window, ...], candidate: Window) -> float:
        """Mean cosine to the original of the model with all these windows merged."""
        return self.summed(committed, candidate, slice(None)) / len(self.final)

    def summed(self, committed: tuple[Window, ...], candidate: Window, samples: slice) -> float:
        """Sum of the cosines of some samples; what lies below the candidate is not run."""
        low = candidate[0]
        hidden = self.inputs[low][samples]
        edits = [self.fold(window) for window in (*committed, candidate)]
        with torch.no_grad():
            for block in apply_edits(edits, self.decoder.with_blocks(self.decoder.blocks[low:]), {}).blocks:
                hidden = self.decoder.run(block, hidden)
            return float(cosines(self.final[samples], self.compared(hidden)).sum())


@dataclass(frozen=True)
class Bounding:
    """A `Similarity` (`windows.py`): some samples at a time, until it is sure that a candidate is not above what is
    asked. No sample gives more than 1. What an interrupted plan measured is taken from the `figures`; `advance` is
    called for every part that is measured."""

    cache: PrefixCache
    figures: Figures
    advance: Callable[[], None]

    def __call__(self, committed: tuple[Window, ...], candidate: Window, above: float, /) -> float:
        total, count = 0.0, len(self.cache.final)
        for start in range(0, count, AT_ONCE):
            samples = slice(start, start + AT_ONCE)
            key = f"{committed} {candidate} {start}"
            if key not in self.figures.known:
                self.advance()
            total += self.figures.of(key, partial(self.cache.summed, committed, candidate, samples))
            left = count - samples.stop
            if left > 0 and (bound := (total + left) / count + ROUNDING) <= above:
                return bound
        return total / count
