"""How many channels each block's MLP keeps, within a budget of the blocks' weights.

Knows shapes and losses. Knows nothing of models or tensors.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as settings_dataclass


@settings_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Widths:
    """`keep`: share of the blocks' weights left, at most; attention stays, so MLPs lose more. `align`: widths are its
    multiples (16 suits CPUs, 64 GPUs)."""

    keep: Annotated[float, Field(gt=0, le=1)]
    align: Annotated[int, Field(ge=1)] = 16

    def numbers(self, whole: int) -> int:
        """How many of `whole` numbers may stay; the small term undoes 0.29 * 100 = 28.99..."""
        return math.floor(self.keep * whole + 1e-9)


@dataclass(frozen=True)
class Mlp:
    """One block's MLP: channels, and the numbers that each of them costs in gate, up and down."""

    block: int
    channels: int
    price: int


Chosen = dict[int, int]
"""Channels that stay, by block."""


def spare(mlps: Sequence[Mlp], whole: int, budget: int, least: Mapping[int, int]) -> int:
    """Numbers that MLPs may hold above their least widths, where all weights of all blocks are `whole` and `budget`
    may stay. Raises ValueError where that is less than nothing."""
    beside = whole - sum(mlp.channels * mlp.price for mlp in mlps)
    smallest = beside + sum(least[mlp.block] * mlp.price for mlp in mlps)
    if smallest > budget:
        raise ValueError(f"narrower MLPs leave {smallest / whole:.2f} of the blocks' weights at the least")
    return budget - smallest


def least_widths(mlps: Sequence[Mlp], align: int, share: float) -> Chosen:
    """A share of each MLP's channels, in whole steps, at least one."""
    return {mlp.block: min(mlp.channels, max(align, math.floor(mlp.channels * share / align) * align)) for mlp in mlps}


def spend(
    mlps: Sequence[Mlp], start: Chosen, left: int, align: int, losses: Mapping[int, Mapping[int, float]]
) -> Chosen:
    """Widen step by step, the step that lowers the loss most per number first, while `left` numbers last.

    `losses`: by block and width. A step goes to the next multiple of `align`, the last to all channels.
    """
    chosen = dict(start)
    queue = [entry for place, mlp in enumerate(mlps) if (entry := _step(place, mlp, chosen, align, losses))]
    heapq.heapify(queue)
    while queue:
        _, place, price, width = heapq.heappop(queue)
        if price > left:
            continue  # what is left only shrinks, so this block is done
        left -= price
        chosen[mlps[place].block] = width
        if entry := _step(place, mlps[place], chosen, align, losses):
            heapq.heappush(queue, entry)
    return chosen


def even_widths(mlps: Sequence[Mlp], whole: int, budget: int, align: int) -> Chosen:
    """The same share of every MLP, in whole steps; what those leave over widens blocks evenly over the depth. Raises
    ValueError where nothing fits."""
    none = dict.fromkeys((mlp.block for mlp in mlps), 0)
    share = spare(mlps, whole, budget, none) / sum(mlp.channels * mlp.price for mlp in mlps)
    chosen = least_widths(mlps, align, share + 1e-12)
    left = spare(mlps, whole, budget, chosen)
    count = min(len(mlps), left // max(align * mlp.price for mlp in mlps))
    for place in range(count):
        mlp = mlps[(2 * place + 1) * len(mlps) // (2 * count)]
        chosen[mlp.block] = min(mlp.channels, chosen[mlp.block] + align)
    return chosen


def by_score(scores: Sequence[float], align: int) -> dict[int, float]:
    """Losses by width, in whole steps of `align` and for all: the scores of the channels that do not stay, the dearest
    staying longest."""
    ordered = sorted(scores, reverse=True)
    total, losses = 0.0, {len(ordered): 0.0}
    for width in range(len(ordered) - 1, 0, -1):
        total += ordered[width]
        if width % align == 0:
            losses[width] = total
    return losses


def _step(
    place: int, mlp: Mlp, chosen: Chosen, align: int, losses: Mapping[int, Mapping[int, float]]
) -> tuple[float, int, int, int] | None:
    """(minus gain per number, place, price, next width); None where all channels stay."""
    width = chosen[mlp.block]
    if width >= mlp.channels:
        return None
    following = min((width // align + 1) * align, mlp.channels)
    price = (following - width) * mlp.price
    gain = losses[mlp.block][width] - losses[mlp.block][following]
    return (-gain / price, place, price, following)
