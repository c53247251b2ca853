"""Sums over the calibration text, block by block, of its windows in parts: summed part by part in one order.

The parts give the same sums wherever each is computed: here, one after the other, or on other machines at once
(`verbs/ray_shards.py`). What one part's windows give does not follow from how many parts there are, but the last bits
of a sum do: a plan tells its number of parts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from foldrank.plans.low_rank.grams import GRAMS, BlockStatistics, Sum, block_statistics, gram
from foldrank.plans.models.block import Block
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.shelf import States


@dataclass(frozen=True)
class Sums:
    """Of a block's inputs; `output`: x^T x [C, C] of what leaves it, float64, where it was asked for."""

    inputs: BlockStatistics
    output: Tensor | None = None


@dataclass(frozen=True)
class Shards:
    """`count` parts of the windows, as alike in size as can be, computed here."""

    count: int = 1

    def start(self, decoder: Decoder, ids_NT: np.ndarray) -> States:
        """What goes through the blocks: the hidden states [N, T, C]."""
        return {"hidden": decoder.embed(ids_NT)}

    def through(
        self, decoder: Decoder, ids_NT: np.ndarray, block: Block, states: States, wanted: Collection[Sum] = GRAMS, *,
        output: bool = False,
    ) -> tuple[Sums, States]:
        """Run a block of the decoder on all windows, which ran through those below it."""
        parts = [through(decoder, block, part, wanted, output=output) for part in self.parts(states["hidden"])]
        hidden = [after for _, after in parts]
        return summed(sums for sums, _ in parts), {"hidden": hidden[0] if len(parts) == 1 else torch.cat(hidden)}

    def parts(self, windows: Tensor) -> list[Tensor]:
        """Of [N, ...]; as many as there are windows, at most."""
        return [*windows.tensor_split(min(self.count, len(windows)))]


HERE: Final = Shards()
"""All windows at once, in this process."""


def through(
    decoder: Decoder, block: Block, hidden_NTC: Tensor, wanted: Collection[Sum], *, output: bool
) -> tuple[Sums, Tensor]:
    """Of one part: its sums, and what leaves the block."""
    statistics, after = block_statistics(decoder, block, hidden_NTC, wanted)
    return Sums(statistics, gram(after) if output else None), after


def summed(parts: Iterable[Sums]) -> Sums:
    """One after the other, in this order."""
    first, *rest = parts
    for part in rest:
        for total, more in zip(_tensors(first), _tensors(part), strict=True):
            total += more
    return first


def _tensors(sums: Sums) -> list[Tensor]:
    kinds = (sums.inputs.inputs, sums.inputs.magnitudes, sums.inputs.totals)
    found = [kind[role] for kind in kinds for role in sorted(kind)]
    return found if sums.output is None else [*found, sums.output]
