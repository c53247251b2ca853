"""The RMS norm that stands in the place of a LayerNorm once what it norms has no mean."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RmsNorm(nn.Module):
    """x / sqrt(mean(x^2) + epsilon) * weight (+ bias), over the last axis."""

    def __init__(self, weight_C: Tensor, bias_C: Tensor | None, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight_C, requires_grad=False)
        self.bias = None if bias_C is None else nn.Parameter(bias_C, requires_grad=False)
        self.epsilon = epsilon

    def forward(self, hidden: Tensor) -> Tensor:
        """Of the shape of `hidden`."""
        normed = hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + self.epsilon) * self.weight
        return normed if self.bias is None else normed + self.bias
