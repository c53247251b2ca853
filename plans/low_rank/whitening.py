"""The metric under which a weight is approximated: E|x W - x W'|^2 generalised to tr((W - W')^T M (W - W')).

DipSVD's local importance protects the channels of the input that carry most. With G = sum x^T x over tokens, a_j the
norm of G[:, j] and D = diag(weight on the `top_share` of channels with the largest a_j, 1 elsewhere):
    plain   M = G                          (SVD-LLM's whitening)
    gd      M = (G D^2 G)^(1/2)            (what DipSVD's released code, an SVD of G D, amounts to)
    dgd     M = D G D                      (what the paper says)
With weight 1 all three are G.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

Whitening = Literal["plain", "gd", "dgd"]


@dataclass(frozen=True)
class Metric:
    """Symmetric positive semidefinite M [I, I], float64; singular is fine."""

    matrix: Tensor

    @cached_property
    def root(self) -> Tensor:
        """S [I, I] with S S^T = M: a Cholesky factor where M has full rank, else from its eigenvectors.

        Any root gives the same factors; eigenvalues below 0 by rounding count as 0.
        """
        if self._lower is not None:
            return self._lower
        values, vectors = torch.linalg.eigh(self.matrix)
        return vectors * values.clamp_min(0.0).sqrt()

    def solve(self, wanted_IX: Tensor) -> Tensor:
        """M^-1 times this, of an M of full rank; what was factored for it is held."""
        lower = self._lower
        return torch.linalg.solve(self.matrix, wanted_IX) if lower is None else torch.cholesky_solve(wanted_IX, lower)

    @cached_property
    def _lower(self) -> Tensor | None:
        """Its Cholesky factor, where there is one."""
        lower, failed = torch.linalg.cholesky_ex(self.matrix)
        return None if int(failed) else lower


def metric(gram_II: Tensor, whitening: Whitening, *, top_share: float, weight: float) -> Metric:
    """The metric of one input from its Gram matrix. One SVD [I, I] for gd, no decomposition for the others."""
    match whitening:
        case "plain":
            return Metric(gram_II)
        case "gd":
            left, values, _ = torch.linalg.svd(gram_II * channel_weights(gram_II, top_share, weight))
            return Metric((left * values) @ left.T)
        case "dgd":
            weights = channel_weights(gram_II, top_share, weight)
            return Metric(weights[:, None] * gram_II * weights)


def channel_weights(gram_II: Tensor, top_share: float, weight: float) -> Tensor:
    """Diagonal of D [I]: `weight` on the ceil(top_share * I) channels with the largest column norms of G."""
    weights = torch.ones(len(gram_II), dtype=gram_II.dtype, device=gram_II.device)
    chosen = gram_II.norm(dim=0).topk(math.ceil(top_share * len(gram_II))).indices
    weights[chosen] = weight
    return weights
