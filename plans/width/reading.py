"""What the down of a block reads over all tokens, one batch of windows at a time, and the block's output beside.

Knows blocks and hidden states. Knows nothing of what the sums are for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from foldrank.plans.low_rank.grams import cross_gram
from foldrank.plans.models.block import Block, watch_inputs
from foldrank.plans.models.decoder import BATCH_TOKENS, Decoder
from foldrank.plans.width.channels import Moments


def moments(
    decoder: Decoder, block: Block, hidden_NTC: Tensor, wanted_NTC: Tensor | None = None, toward: float = 0.0
) -> tuple[Moments, Tensor]:
    """Of the block's down, run on `hidden`; and the block's output [N, T, C], on `wanted` where that is given.

    What down shall give is what it gives there; or, `toward` 1, what it gives on `wanted`, the hidden states of the
    uncompressed model. Sums of a batch in float32, over batches in float64.
    """
    weight, outputs = block.weight("down"), []
    sums: dict[str, Tensor] = {}
    for hidden, wanted in _batches(hidden_NTC, wanted_NTC):
        z, output = read(decoder, block, hidden)
        _add(sums, "inputs", cross_gram(z, z))
        _add(sums, "mean", z.sum(dim=0))
        if wanted is not None:
            aim, output = read(decoder, block, wanted)
            lost = (aim - z) @ weight
            _add(sums, "missing", z.T @ lost)
            _add(sums, "missing mean", lost.sum(dim=0))
        outputs.append(output)
    tokens, wide = hidden_NTC.shape[0] * hidden_NTC.shape[1], weight.to(torch.float64)
    inputs, mean = sums["inputs"] / tokens, sums["mean"] / tokens
    cross, target = inputs @ wide, mean @ wide
    if wanted_NTC is not None:
        cross, target = (known + toward * sums[name] / tokens
                         for known, name in ((cross, "missing"), (target, "missing mean")))
    return Moments(inputs, cross, mean, target, tokens), torch.cat(outputs)


@dataclass(frozen=True)
class ChannelStatistics:
    """Means over tokens of what down reads, float64 [I]: x, x^2 and |x|; 1 - the cosine of what the block gives with
    what it would without what the channel gives (`turned`, where it was asked for); and the cosine of what enters a
    block with what leaves it."""

    mean: Tensor
    square: Tensor
    size: Tensor
    turned: Tensor
    cosine: float


def channel_statistics(
    decoder: Decoder, block: Block, hidden_NTC: Tensor, *, turned: bool = False
) -> tuple[ChannelStatistics, Tensor]:
    """Of the block, run on `hidden`; and its output [N, T, C]."""
    sums: dict[str, Tensor] = {}
    outputs = []
    for hidden, _ in _batches(hidden_NTC, None):
        x, output = read(decoder, block, hidden)
        outputs.append(output)
        for name, values in (("mean", x), ("square", x.square()), ("size", x.abs()),
                             ("turned", _turned(x, block, output) if turned else x[:0]),
                             ("cosine", torch.cosine_similarity(hidden, output, dim=-1).flatten())):
            _add(sums, name, values.sum(dim=0, dtype=torch.float64))
    tokens = hidden_NTC.shape[0] * hidden_NTC.shape[1]
    found = {name: total / tokens for name, total in sums.items()}
    return (ChannelStatistics(found["mean"], found["square"], found["size"], found["turned"], float(found["cosine"])),
            torch.cat(outputs))


def _turned(read: Tensor, block: Block, output_NTC: Tensor) -> Tensor:
    """1 - cos(y, y - x_j w_j) [tokens, I], float64."""
    down, output = block.weight("down").double(), output_NTC.flatten(0, -2).double()
    x, whole = read.double(), output.square().sum(dim=1, keepdim=True)
    along = x * (output @ down.T)
    left = (whole - 2 * along + x.square() * down.square().sum(dim=1)).clamp_min(0.0)
    return 1 - (whole - along) / (whole * left).sqrt().clamp_min(1e-300)


def read(decoder: Decoder, block: Block, hidden_NTC: Tensor) -> tuple[Tensor, Tensor]:
    """What the block's down reads [tokens, I], and the block's output [N, T, C]."""
    seen: list[Tensor] = []
    with watch_inputs(block, lambda _role, x: seen.append(x.flatten(0, -2)), ("down",)):
        output = decoder.run(block, hidden_NTC)
    return torch.cat(seen), output


def _add(sums: dict[str, Tensor], name: str, part: Tensor) -> None:
    wide = part.to(torch.float64)
    sums[name] = sums[name] + wide if name in sums else wide


def _batches(hidden_NTC: Tensor, wanted_NTC: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    size = max(1, BATCH_TOKENS // hidden_NTC.shape[1])
    parts = hidden_NTC.split(size)
    return zip(parts, [None] * len(parts) if wanted_NTC is None else wanted_NTC.split(size), strict=True)
