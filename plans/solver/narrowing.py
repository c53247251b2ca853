"""What a narrower MLP is expected to cost in nats, and which channels it keeps.

Channels leave one batch after the other, each judged with down refit on what is left (`width/channels.py`), by errors
of down's output as the loss minds them: with F = E[g^T g] over tokens, g the gradient of the log likelihood by that
output, an error e costs 1/2 e F e^T (`fisher.py`). Taken on the uncompressed model, once: which channels stay depends
little on what the blocks below lost (SmolLM2-135M at 0.85 of the weights: 1.177 times dense perplexity with the inputs
of the compressed model, 1.177 with the original's); what gate, up and down become does, and is fit when a block is
built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from foldrank.plans.models.block import Block
from foldrank.plans.solver.layout import DOWN
from foldrank.plans.solver.moments import Moments, diagonal
from foldrank.plans.width import channels
from foldrank.plans.width.channels import Order

STEPS = 32
"""Widths of an MLP at most, besides the whole."""

LEAST = 0.125
"""Share of its channels that an MLP keeps; where fewer would do it can go as a whole."""


@dataclass(frozen=True)
class Narrowing:
    """One MLP: nats expected at every width open, all channels (0 nats) among them; its channels, dearest first."""

    nats: Mapping[int, float]
    order: Order

    @property
    def widths(self) -> tuple[int, ...]:
        """Ascending, less the whole."""
        return tuple(sorted(self.nats)[:-1])

    @property
    def whole(self) -> int:
        """All channels."""
        return max(self.nats)

    def kept(self, width: int) -> Tensor:
        """Channels that stay, ascending."""
        return self.order.kept(width)


Narrowings = Mapping[int, Narrowing]
"""By source number, of the blocks that have an MLP."""


def narrowing(block: Block, moments: Moments, root: Tensor | None, tokens: int, align: int) -> Narrowing:
    """Of a block with an MLP, widths multiples of `align`. `root`: R of down's outputs, where it is known. Cost: about
    3 I^3 multiply-adds for I channels, float64."""
    inputs, weight = moments.inputs[DOWN] / tokens, block.weight("down").to(torch.float64)
    mean = diagonal(moments.outputs[DOWN]).mean().sqrt()
    minded = (weight * mean if root is None else weight @ root.to(torch.float64)) / tokens**0.5
    sums = channels.Moments(inputs, inputs @ minded, minded.new_zeros(len(inputs)), minded[0] * 0, tokens)
    step = align * max(1, round(len(inputs) / (STEPS * align)))
    order = channels.order(sums, minded, step, max(step, round(LEAST * len(inputs))))
    return Narrowing({width: loss / 2 for width, loss in zip(order.widths, order.losses, strict=True)}, order)
