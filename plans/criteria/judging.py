"""What a block or a branch of one is worth, by one of four criteria: a method says what may leave, they what first.

With x the residual stream [N, T, C] before a unit and y behind it, d = y - x, and c what its block gives without it
less what it gives with it:

    similarity   1 - E[cos(x, y)] over tokens: how far it turns the stream (ShortGPT, arXiv 2403.03853; LLM-Drop, arXiv
                 2406.15786)
    fluctuation  E|d - E d|^2 / E|y|^2: what no bias could stand for (what FLAP, arXiv 2312.11983, asks of channels)
    curvature    1/2 E[c F c^T], nats a token: the loss to second order, F = E[s^T s], s the gradient of the log
                 likelihood by the block's output, labels drawn from the model itself (K-FAC, arXiv 1503.05671)
    loss         the mean next-token loss without it, nats a token (SLEB, arXiv 2402.09025; Shortened LLaMA)

Cost: similarity and fluctuation nothing but the states, curvature a backward pass in all, loss what lies above each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from foldrank.plans.low_rank.grams import gram
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.models.losses import drawn_loss, mean_loss
from foldrank.plans.models.slopes import parts, slopes

Criterion = Literal["similarity", "fluctuation", "curvature", "loss"]


@dataclass(frozen=True)
class Unit:
    """One that may leave. `position`: of its block in the decoder; `below`, `above` [N, T, C]: the stream before and
    behind it; `given`, `without`: what its block gives with and without it, the latter computed where it is asked
    for."""

    position: int
    below: Tensor
    above: Tensor
    given: Tensor
    without: Callable[[], Tensor]


Judge = Callable[[Unit], float]
"""The more, the dearer."""


def judge(criterion: Criterion, decoder: Decoder, ids_NT: np.ndarray, seed: int) -> Judge:
    """Of units of this decoder, on states of these tokens. `seed`: of the labels that curvature draws."""
    match criterion:
        case "similarity":
            return lambda unit: turned(unit.below, unit.above)
        case "fluctuation":
            return _fluctuation
        case "curvature":
            fishers = stream_fishers(decoder, ids_NT, seed)
            return lambda unit: _curvature(unit, fishers[unit.position])
        case "loss":
            return lambda unit: _loss(decoder, ids_NT, unit)


def stream_fishers(decoder: Decoder, ids_NT: np.ndarray, seed: int) -> Sequence[Tensor]:
    """F [C, C] at every block's output, lowest first, float64. Cost: a forward and a backward pass."""
    generator = torch.Generator(decoder.device).manual_seed(seed)
    sums: list[Tensor] = []
    for part in parts(ids_NT):
        found = slopes(decoder, decoder.blocks, decoder.embed(part), lambda logits: drawn_loss(logits, generator))
        own = [gram(slope) for slope in found]
        sums = own if not sums else [held.add_(new) for held, new in zip(sums, own, strict=True)]
    return [held / ids_NT.size for held in sums]


def turned(below_NTC: Tensor, above_NTC: Tensor) -> float:
    """1 - E[cos] over tokens: how far what lies between the two turns the residual stream. float64."""
    return 1 - float(functional.cosine_similarity(below_NTC.double(), above_NTC.double(), dim=-1).mean())


def _fluctuation(unit: Unit) -> float:
    above = unit.above.flatten(0, 1).double()
    added = above - unit.below.flatten(0, 1).double()
    return float((added - added.mean(dim=0)).square().sum() / above.square().sum().clamp_min(1e-300))


def _curvature(unit: Unit, fisher_CC: Tensor) -> float:
    change = (unit.without() - unit.given).flatten(0, 1).double()
    return float(((change @ fisher_CC) * change).sum()) / (2 * len(change))


def _loss(decoder: Decoder, ids_NT: np.ndarray, unit: Unit) -> float:
    hidden = unit.without()
    with torch.no_grad():
        for block in decoder.blocks[unit.position + 1 :]:
            hidden = decoder.run(block, hidden)
    return mean_loss(decoder, hidden, ids_NT)
