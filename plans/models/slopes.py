"""How a loss of the logits answers to what blocks give: gradients by every block's output, some tokens at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from foldrank.plans.models.block import Block
from foldrank.plans.models.decoder import Decoder

AT_ONCE = 512
"""Tokens of a backward pass: what every site reads and its slopes are held for so many, a megabyte a token for a model
of 30 blocks of width 576."""


def parts(ids_NT: np.ndarray) -> list[np.ndarray]:
    """Windows that a backward pass takes at once."""
    size = max(1, AT_ONCE // ids_NT.shape[1])
    return [ids_NT[start : start + size] for start in range(0, len(ids_NT), size)]


def slopes(
    decoder: Decoder, blocks: Sequence[Block], hidden_NTC: Tensor, loss: Callable[[Tensor], Tensor]
) -> tuple[Tensor, ...]:
    """Gradient of `loss` (logits [N, T, V] to a scalar) by every block's output [N, T, C], lowest first. Cost: a
    forward and a backward pass; what both need is held for all of the tokens."""
    hidden, outputs = hidden_NTC.detach().requires_grad_(), []
    with torch.enable_grad():
        for block in blocks:
            hidden = decoder.run(block, hidden)
            outputs.append(hidden)
        return torch.autograd.grad(loss(decoder.logits(hidden)), outputs)
