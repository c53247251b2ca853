"""What blocks are worth to each other: a gate on what each adds, trained by distillation (FoldGPT, arXiv 2407.00928).

A block gives x + g (block(x) - x). From g = 1 all gates fall along the gradient of KL(dense || gated) + PULL * sum g,
within 0 and 1: what the others can do without falls first, and blocks that stand in for each other do not both fall,
which no measure of one block at a time can tell. Worth is the gate in the end. From the abstract: how the paper pulls
its gates down it does not say. Cost: for every step a forward pass of the dense model, one of the gated, and a backward
pass. Axes: N windows, T tokens, L blocks.
"""

from __future__ import annotations

from itertools import islice

import numpy as np
import torch
from torch import Tensor

from foldrank.plans.models.decoder import Decoder
from foldrank.plans.models.words import Words
from foldrank.plans.training.sampling import epochs
from foldrank.progress import SILENT, Progress, track

STEPS, RATE = 48, 0.05
"""Of Adam; the rate falls to nothing along a half cosine, so a gate that nothing holds is shut after half of them."""

TOKENS = 512
"""Of a step, at least one window's."""

PULL = 0.02
"""Nats a token that a gate is to save by falling from 1 to 0."""


def gates(decoder: Decoder, ids_NT: np.ndarray, seed: int, progress: Progress = SILENT) -> list[float]:
    """Of all blocks but the lowest, which stays open, lowest first: L - 1 numbers within 0 and 1."""
    held = torch.ones(len(decoder.blocks) - 1, device=decoder.device, requires_grad=True)
    optimizer = torch.optim.Adam([held], lr=RATE)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    size = max(1, TOKENS // ids_NT.shape[1])
    for rows in track(islice(epochs(len(ids_NT), size, seed), STEPS), "gates", STEPS, progress):
        optimizer.zero_grad()
        with torch.enable_grad():
            (_divergence(decoder, ids_NT[rows], held) + PULL * held.sum()).backward()
        optimizer.step()
        falling.step()
        with torch.no_grad():
            held.clamp_(0.0, 1.0)
    return [float(gate) for gate in held.detach()]


def _divergence(decoder: Decoder, ids_NT: np.ndarray, gates_L: Tensor) -> Tensor:
    """Mean KL(dense || gated) in nats a token."""
    with torch.no_grad():
        wanted = Words.of(decoder.logits(decoder.forward(ids_NT)))
        hidden = decoder.run(decoder.blocks[0], decoder.embed(ids_NT))
    for block, gate in zip(decoder.blocks[1:], gates_L, strict=True):
        hidden = hidden + gate * (decoder.run(block, hidden) - hidden)
    return wanted.divergence(decoder.logits(hidden)).mean()
