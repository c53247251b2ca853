"""What a channel of an MLP is worth, by the four criteria of `judging.py`: scores of all of a block's at once.

With x_j what down reads in channel j, w_j its row of down's weight, y the block's output, all over tokens:

    similarity   1 - E[cos(y, y - x_j w_j)]
    fluctuation  Var(x_j) |w_j|^2 (FLAP, arXiv 2312.11983)
    curvature    1/2 E[x_j^2] E[s_j^2] nats a token, s_j the gradient of the log likelihood by x_j, labels drawn from
                 the model itself: the loss to second order, x and s taken as independent (K-FAC, arXiv 1503.05671)
    loss         |E[x_j g_j]|, g_j the gradient of the next-token loss: the nats a token that it changes, to first order
                 (LLM-Pruner, arXiv 2305.11627)

Cost: similarity a product with down more, curvature and loss a backward pass. Axes: N windows, T tokens, I channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

import numpy as np
import torch
from torch import Tensor

from foldrank.plans.criteria.judging import Criterion
from foldrank.plans.models.block import Block, watch_inputs
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.models.losses import drawn_loss, summed_loss
from foldrank.plans.models.slopes import parts
from foldrank.plans.width.reading import ChannelStatistics

Judge = Callable[[Block, ChannelStatistics], Tensor]
"""Of each channel of a block [I], float64: the more, the dearer."""

IN_NATS: frozenset[Criterion] = frozenset(("curvature", "loss"))
"""What these say of one block may be compared with what they say of another."""


def channel_judge(criterion: Criterion, decoder: Decoder, ids_NT: np.ndarray, seed: int) -> Judge:
    """Of this decoder's channels on these tokens. `seed`: of the labels that curvature draws."""
    match criterion:
        case "similarity":
            return lambda _block, found: found.turned
        case "fluctuation":
            return lambda block, found: (found.square - found.mean.square()).clamp_min(0.0) * (
                block.weight("down").double().square().sum(dim=1))
        case "curvature":
            sharp = _curvatures(decoder, ids_NT, seed)
            return lambda block, found: found.square * sharp[block.number] / 2
        case "loss":
            first = _first_order(decoder, ids_NT)
            return lambda block, _found: first[block.number]


def _curvatures(decoder: Decoder, ids_NT: np.ndarray, seed: int) -> dict[int, Tensor]:
    """E[s_j^2] [I] by block."""
    generator = torch.Generator(decoder.device).manual_seed(seed)
    sums: dict[int, Tensor] = {}
    for ids in parts(ids_NT):
        for number, _read, slope in _slopes(decoder, ids, lambda logits: drawn_loss(logits, generator)):
            sums[number] = slope.square().sum(dim=0) + sums.get(number, 0.0)
    return {number: total / ids_NT.size for number, total in sums.items()}


def _first_order(decoder: Decoder, ids_NT: np.ndarray) -> dict[int, Tensor]:
    """|E[x_j g_j]| [I] by block."""
    sums: dict[int, Tensor] = {}
    for ids in parts(ids_NT):
        for number, read, slope in _slopes(decoder, ids, partial(summed_loss, ids_NT=ids)):
            sums[number] = (read * slope).sum(dim=0) + sums.get(number, 0.0)
    return {number: total.abs() / (ids_NT.size - len(ids_NT)) for number, total in sums.items()}


def _slopes(
    decoder: Decoder, ids_NT: np.ndarray, loss: Callable[[Tensor], Tensor]
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Of every block with an MLP: what down reads, and the loss's gradient by it [tokens, I], float64."""
    read: dict[int, Tensor] = {}

    def note(number: int, _role: str, given: Tensor) -> None:
        read[number] = given

    with torch.enable_grad(), ExitStack() as stack:
        for block in decoder.blocks:
            if "down" in block.roles:
                stack.enter_context(watch_inputs(block, partial(note, block.number), ("down",)))
        hidden = decoder.embed(ids_NT).requires_grad_()
        for block in decoder.blocks:
            hidden = decoder.run(block, hidden)
        found = torch.autograd.grad(loss(decoder.logits(hidden)), list(read.values()))
    for (number, x), slope in zip(read.items(), found, strict=True):
        yield number, x.detach().flatten(0, -2).double(), slope.flatten(0, -2).double()
