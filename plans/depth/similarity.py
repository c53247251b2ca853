"""Ways to compare hidden states: cosines by sample (SLM's criterion), and debiased linear CKA for the picture.

Knows tensors only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def mean_cosine(one_NTC: Tensor, other_NTC: Tensor) -> float:
    """Cosine of each sample's hidden states flattened to one vector of T*C, averaged over samples; in [-1, 1].

    SLM's released criterion (arXiv 2502.19159). float64: candidates near 1 must stay apart.
    """
    return float(cosines(one_NTC, other_NTC).mean().clamp(-1.0, 1.0))


def cosines(one_NTC: Tensor, other_NTC: Tensor) -> Tensor:
    """Of each sample by itself [N], float64; 0 where one is all zeros."""
    a, b = (x.flatten(1).to(torch.float64) for x in (one_NTC, other_NTC))
    lengths = a.norm(dim=1) * b.norm(dim=1)
    return torch.where(lengths > 0, (a * b).sum(dim=1) / lengths.clamp_min(1e-300), torch.zeros_like(lengths))


def debiased_cka(states_BNC: Sequence[np.ndarray]) -> np.ndarray:
    """Debiased linear CKA [B, B] between B representations [N, C] of the same N samples (columns may differ in number).

    HSIC is the U-statistic of Song et al. 2012, as in Nguyen et al. 2021 (arXiv 2010.15327): diagonals of both Gram
    matrices zeroed, then U-centred, HSIC = <K, L> / (N (N - 3)); the factor cancels. Cost B N^2 (C + B), memory B N^2.
    Not bounded by 0 below; exactly 1 on the diagonal. Raises ValueError for fewer than four samples.
    """
    centred = np.stack([_u_centred(state) for state in states_BNC])
    flat = centred.reshape(len(centred), -1)
    hsic = flat @ flat.T
    scale = np.sqrt(np.clip(np.diag(hsic), 0.0, None))
    norm = np.outer(scale, scale)
    return np.divide(hsic, norm, out=np.zeros_like(hsic), where=norm > 0)


def _u_centred(states_NC: np.ndarray) -> np.ndarray:
    """The U-centred Gram matrix [N, N], zero diagonal, rows summing to zero (Székely and Rizzo 2014)."""
    n = len(states_NC)
    if n < 4:
        raise ValueError(f"debiased CKA needs four samples or more, not {n}")
    states = states_NC.astype(np.float64)
    gram = states @ states.T
    np.fill_diagonal(gram, 0.0)
    rows = gram.sum(axis=0) / (n - 2)
    gram += rows.sum() / (n - 1) - rows[:, None] - rows[None, :]
    np.fill_diagonal(gram, 0.0)
    return gram
