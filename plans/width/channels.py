"""Channels of an MLP by the loss they carry once down is refit on what stays.

With Z [N, I] what down reads over N tokens, H = Z^T Z / N and C = Z^T T / N for what it shall give, T [N, O]: on
channels S the best down is D = H_SS^-1 C_S, and taking j out of S costs |D_j|^2 / (H_SS^-1)_jj. So channels leave one
batch after the other, the cheapest first, each judged with down refit on what was left (backward elimination; ZipLM and
SparseGPT use the same formula for weights). Knows tensors only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

DAMPING = 1e-3
"""Share of the mean of H's diagonal that is added to it: text is short, and channels are many."""


@dataclass(frozen=True)
class Moments:
    """Means over tokens, float64: H = z^T z [I, I], C = z^T t [I, O], z [I] and t [O]; T is what down shall give."""

    inputs: Tensor
    cross: Tensor
    mean: Tensor
    target: Tensor

    def centred(self) -> Moments:
        """Less the means: where down has a bias behind it."""
        inputs = self.inputs - torch.outer(self.mean, self.mean)
        cross = self.cross - torch.outer(self.mean, self.target)
        return Moments(inputs, cross, torch.zeros_like(self.mean), torch.zeros_like(self.target))


@dataclass(frozen=True)
class Order:
    """Channels [I], those that stay longest first. `losses` [steps + 1]: mean |error|^2 with the first
    `widths[step]` of them; what no width takes away (the first loss is of all channels) is not in it."""

    channels: Tensor
    widths: tuple[int, ...]
    losses: tuple[float, ...]

    def kept(self, width: int) -> Tensor:
        """The channels that stay at a width, ascending."""
        return self.channels[:width].sort().values


def order(moments: Moments, weight_IO: Tensor, step: int, least: int = 0) -> Order:
    """Take out `step` channels at a time, first those beyond a multiple of it, while `least` stay, or one.

    `weight_IO` is down as it is, to which the damping draws. float64: inverses. Cost: 2 I^3 multiply-adds, and 2 I^2
    for each channel that leaves.
    """
    damped, drawn = _damped(moments, weight_IO)
    inverse = torch.linalg.inv(damped)
    down = inverse @ drawn
    numbers = torch.arange(len(down), device=down.device)
    left: list[Tensor] = []
    widths, losses = [len(numbers)], [0.0]
    while len(numbers) - (count := len(numbers) % step or step) >= max(least, 1):
        scores = down.square().sum(dim=1) / inverse.diagonal()
        out = scores.argsort()[:count]
        stays = torch.ones(len(numbers), dtype=torch.bool, device=down.device)
        stays[out] = False
        columns, solved = inverse[:, out], torch.linalg.solve(inverse[out][:, out], torch.cat(
            [inverse[out], down[out]], dim=1))
        losses.append(losses[-1] + float((down[out] * solved[:, len(numbers) :]).sum()))
        down = (down - columns @ solved[:, len(numbers) :])[stays]
        inverse = (inverse - columns @ solved[:, : len(numbers)])[stays][:, stays]
        left.append(numbers[out[scores[out].argsort(descending=True)]])
        numbers = numbers[stays]
        widths.append(len(numbers))
    by_need = numbers[(down.square().sum(dim=1) / inverse.diagonal()).argsort(descending=True)]
    return Order(torch.cat([by_need, *reversed(left)]), tuple(widths), tuple(losses))


def refit(moments: Moments, weight_IO: Tensor, kept_K: Tensor) -> Tensor:
    """The best down [K, O] on these channels, float64."""
    damped, drawn = _damped(moments, weight_IO)
    return torch.linalg.solve(damped[kept_K][:, kept_K], drawn[kept_K])


def _damped(moments: Moments, weight_IO: Tensor) -> tuple[Tensor, Tensor]:
    """H and C of the same problem with a cost on how far down moves."""
    damping = DAMPING * float(moments.inputs.diagonal().mean()) + 1e-30
    weight = weight_IO.to(moments.inputs)
    return moments.inputs + damping * torch.eye(len(weight), dtype=weight.dtype, device=weight.device), \
        moments.cross + damping * weight
