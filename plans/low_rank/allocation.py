"""DipSVD's global importance, heuristic form: which blocks keep a larger share of their weights.

Sensitivity S_l: sum over the block's parameters of |gradient| / |weight| on a few windows, as a share of its depth
quarter. Effective rank R_l: how many singular values of the block's output make 95 % of their sum, as a share of the
width. Q_l = S_l^b R_l^(1-b) with b = 0.3, scaled to [-1, 1] over the blocks; ratio_l = keep +- 0.25 Q_l, clipped to
[0.3, 0.98] and rescaled so that the mean is keep. DipSVD's released code keeps more where both are low, the formula in
notes on the paper where both are high.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from foldrank.plans.low_rank.gradients import BlockGradients, reduced
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.shelf import Finding, Shelf
from foldrank.progress import SILENT, Progress
from foldrank.sites import Site

EXPONENT = 0.3
SPREAD = 0.25
FLOOR, CEILING = 0.3, 0.98
QUARTERS = 4


def sensitivities(
    decoder: Decoder, ids_NT: np.ndarray, shelf: Shelf | None = None, progress: Progress = SILENT
) -> np.ndarray:
    """S_l before normalisation, one per block: gradients of the next-token loss, summed over the windows."""
    def reduce(found: BlockGradients) -> Finding:
        return Finding(values={"sensitivity": sum(
            float(g.norm() / found.block.tensors[name].float().norm().clamp_min(1e-12))
            for name, g in found.summed().items())})

    found = reduced(decoder, ids_NT, reduce, shelf, progress)
    return np.array([found[block.number].values["sensitivity"] for block in decoder.blocks])


def curvatures(
    decoder: Decoder, ids_NT: np.ndarray, shelf: Shelf | None = None, progress: Progress = SILENT
) -> dict[Site, float]:
    """Mean squared gradient of the loss by a number of each role's output: a loss of y of |dy|^2 costs in proportion.

    The diagonal, averaged over outputs, of the empirical Fisher information of what a linear puts out.
    """
    def reduce(found: BlockGradients) -> Finding:
        return Finding(values={role: float(np.mean([sizes[role] for sizes in found.outputs]))
                               for role in found.block.roles})

    found = reduced(decoder, ids_NT, reduce, shelf, progress)
    return {Site(block.number, (role,)): found[block.number].values[role]
            for block in decoder.blocks for role in block.roles}


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
