"""DipSVD's global importance, heuristic form: which blocks keep a larger share of their weights.

Sensitivity S_l: sum over the block's parameters of |gradient| / |weight| on a few windows, as a share of its depth
quarter. Effective rank R_l: how many singular values of the block's output make 95 % of their sum, as a share of the
width. Q_l = S_l^b R_l^(1-b) with b = 0.3, scaled to [-1, 1] over the blocks; ratio_l = keep +- 0.25 Q_l, clipped to
[0.3, 0.98] and rescaled so that the mean is keep. DipSVD's released code keeps more where both are low, the formula in
notes on the paper where both are high.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from foldrank.plans.decoder import Decoder

EXPONENT = 0.3
SPREAD = 0.25
FLOOR, CEILING = 0.3, 0.98
QUARTERS = 4


def sensitivities(decoder: Decoder, ids_NT: np.ndarray) -> np.ndarray:
    """S_l before normalisation, one per block: gradients of the next-token loss, summed over the windows.

    Cost: one backward pass per window; memory: gradients of the blocks once.
    """
    sums: list[dict[str, Tensor]] = [{} for _ in decoder.blocks]
    for row in ids_NT:
        for gathered, gradients in zip(sums, _gradients(decoder, row[None]), strict=True):
            for name, gradient in gradients.items():
                gathered[name] = gradient if name not in gathered else gathered[name] + gradient
    return np.array([
        sum(float(g.norm() / block.tensors[name].norm().clamp_min(1e-12)) for name, g in gathered.items())
        for block, gathered in zip(decoder.blocks, sums, strict=True)
    ])


def effective_rank(gram_CC: Tensor) -> int:
    """How many singular values of the states with this Gram matrix make 95 % of their sum."""
    singular = np.sqrt(torch.linalg.eigvalsh(gram_CC).clamp_min(0.0).flip(0).cpu().numpy())
    shares = np.cumsum(singular) / max(singular.sum(), 1e-300)
    return min(int(np.searchsorted(shares, 0.95)) + 1, len(shares))


def importance(sensitivity: np.ndarray, ranks: Sequence[int], width: int) -> np.ndarray:
    """Q_l of every block."""
    shares = np.empty(len(sensitivity))
    for quarter in np.array_split(np.arange(len(sensitivity)), QUARTERS):
        shares[quarter] = sensitivity[quarter] / max(sensitivity[quarter].sum(), 1e-300)
    return shares**EXPONENT * (np.asarray(ranks) / width) ** (1 - EXPONENT)


def ratios(importance_L: np.ndarray, keep: float, sign: int) -> np.ndarray:
    """Ratio of every block, mean `keep`; `sign` +1 keeps more where importance is high, -1 where it is low."""
    spread = np.ptp(importance_L)
    scaled = 2 * (importance_L - importance_L.min()) / spread - 1 if spread > 0 else np.zeros_like(importance_L)
    return rescaled(np.clip(keep + sign * SPREAD * scaled, FLOOR, CEILING), keep)


def rescaled(wanted: np.ndarray, keep: float) -> np.ndarray:
    """The wanted ratios times one factor, so that the mean is keep; none above the ceiling (or keep)."""
    ceiling = max(CEILING, keep)
    low, high = 0.0, ceiling / wanted.min()
    for _ in range(80):
        middle = (low + high) / 2
        if np.minimum(wanted * middle, ceiling).mean() <= keep:
            low = middle
        else:
            high = middle
    return np.minimum(wanted * low, ceiling)


def _gradients(decoder: Decoder, ids_1T: np.ndarray) -> list[dict[str, Tensor]]:
    """Gradient of the mean next-token loss for every parameter of every block."""
    blocks = [
        replace(block, tensors={name: tensor.detach().requires_grad_() for name, tensor in block.tensors.items()})
        for block in decoder.blocks
    ]
    hidden = decoder.embed(ids_1T)
    for block in blocks:
        hidden = decoder.run(block, hidden)
    logits = decoder.logits(hidden)[0, :-1]
    loss = functional.cross_entropy(logits, torch.from_numpy(ids_1T[0, 1:]).to(logits.device))
    parameters = [tensor for block in blocks for tensor in block.tensors.values()]
    found = iter(torch.autograd.grad(loss, parameters))
    return [{name: next(found) for name in block.tensors} for block in blocks]
