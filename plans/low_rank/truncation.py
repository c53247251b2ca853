"""Best low-rank pairs under a metric, all ranks from one decomposition: W ~ A B with A = W U_k, B = U_k^T.

W' = W U_k U_k^T minimises tr((W - W')^T M (W - W')) over rank k when U_k holds the top eigenvectors of W^T M W [O, O];
the loss is the sum of the eigenvalues dropped. For O > I the same U comes from the smaller S^T W W^T S [I, I] where
M = S S^T. No inverse and no Cholesky: a singular M works. B has orthonormal rows, so x A, a projection of x W in other
coordinates, is never larger than x W: safe in fp16.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foldrank.edits.low_rank import rank_limit
from foldrank.plans.low_rank.whitening import Metric


@dataclass(frozen=True)
class Truncations:
    """Every truncation of one W [I, O], K = min(I, O). float32; columns past the largest rank that saves are not kept.

    `losses` [K + 1], float64: loss at each rank, from nothing kept to everything.
    """

    a_IK: Tensor
    b_KO: Tensor
    losses: np.ndarray

    def pair(self, rank: int) -> tuple[Tensor, Tensor]:
        """A [I, rank] and B [rank, O]."""
        return self.a_IK[:, :rank], self.b_KO[:rank]

    @property
    def shares(self) -> np.ndarray:
        """`losses` as shares of the loss of dropping everything; zeros where that is zero."""
        return self.losses / self.losses[0] if self.losses[0] > 0 else np.zeros_like(self.losses)


def truncations(weight_IO: Tensor, metric: Metric) -> Truncations:
    """Decompose once. Cost: one symmetric eigenproblem of size min(I, O), in float64."""
    return Truncations(*leading(weight_IO, metric, max(rank_limit(*weight_IO.shape), 0)))


def leading(weight_IO: Tensor, metric: Metric, most: int) -> tuple[Tensor, Tensor, np.ndarray]:
    """A [I, K] and B [K, O], float32, K at most `most`: their first columns and rows are the best pair of each rank;
    and the losses [min(I, O) + 1] as in Truncations. Cost: that of `truncations`."""
    weight = weight_IO.to(torch.float64)
    basis_OK, losses = decompose(weight, metric)
    kept = basis_OK[:, :most]
    return (weight @ kept).to(torch.float32), kept.T.to(torch.float32).contiguous(), losses


def weighted_pair(weight_IO: Tensor, metric: Metric, root_OO: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A [I, rank] and B [rank, O], float32, that minimise tr(F (W - A B)^T M (W - A B)) where F = R R^T, R triangular.

    F says what an error at each output costs. B has orthonormal rows here too. Cost: one symmetric eigenproblem of size
    min(I, O) and a triangular solve, in float64.
    """
    turned = weight_IO.to(torch.float64) @ root_OO
    basis = decompose(turned, metric)[0][:, :rank]
    rows = torch.linalg.solve_triangular(root_OO.T, basis, upper=True).T
    orthonormal, mixing = torch.linalg.qr(rows.T)
    a = turned @ basis @ mixing.T
    return a.to(torch.float32), orthonormal.T.to(torch.float32).contiguous()


def decompose(weight_IO: Tensor, metric: Metric) -> tuple[Tensor, np.ndarray]:
    """Orthonormal U [O, K], best direction first, and the loss at each rank [K + 1]; float64."""
    n_in, n_out = weight_IO.shape
    if n_out <= n_in:
        values, basis = _descending(weight_IO.T @ metric.matrix @ weight_IO)
    else:
        half = metric.root.T @ weight_IO
        values, vectors = _descending(half @ half.T)
        basis = half.T @ vectors
    known = int((values > values[0] * torch.finfo(values.dtype).eps * max(n_in, n_out)).sum())
    return signed(_completed(weight_IO, basis[:, :known], len(values))), _losses(values)


def truncation_losses(weight_IO: Tensor, metric: Metric) -> np.ndarray:
    """Those of `decompose` alone, at a fraction of its cost."""
    n_in, n_out = weight_IO.shape
    half = weight_IO if n_out <= n_in else metric.root.T @ weight_IO
    product = half.T @ metric.matrix @ half if n_out <= n_in else half @ half.T
    return _losses(torch.linalg.eigvalsh(product).flip(0).clamp_min(0.0))


def _descending(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(symmetric)
    return values.flip(0).clamp_min(0.0), vectors.flip(1)


def _completed(weight_IO: Tensor, basis_OR: Tensor, columns: int) -> Tensor:
    """Orthonormal basis with the directions the metric does not see last, ordered by what is left of W there.

    So full rank gives W itself also where calibration left channels unseen.
    """
    missing = columns - basis_OR.shape[1]
    if missing:
        known, _ = torch.linalg.qr(basis_OR)
        rest = weight_IO.T - known @ (known.T @ weight_IO.T)
        left, _, _ = torch.linalg.svd(rest, full_matrices=False)
        basis_OR = torch.cat([known, left[:, :missing]], dim=1)
    basis, _ = torch.linalg.qr(basis_OR)
    return basis


def signed(basis_OK: Tensor) -> Tensor:
    """Turn each column so that its largest entry is positive: rounding may flip an eigenvector, never a plan."""
    largest = basis_OK.gather(0, basis_OK.abs().argmax(dim=0, keepdim=True))
    return torch.where(largest < 0, -basis_OK, basis_OK)


def _losses(values: Tensor) -> np.ndarray:
    kept = values.cpu().numpy()
    return np.concatenate([np.cumsum(kept[::-1])[::-1], [0.0]])
