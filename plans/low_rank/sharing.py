"""One weight for several blocks, and what each of them needs beside it: W_l ~ W + A_l B_l.

W minimises sum_l tr((W_l - W)^T G_l (W_l - W)) over the Grams G_l of the blocks' inputs: W = (sum G_l)^-1 sum G_l W_l.
Of what is left, W_l - W, the pair is the best truncation under the block's own Gram. So Relaxed Recursive Transformers
(arXiv 2410.20672) start, with means and singular values without a metric. Axes: I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from foldrank.plans.low_rank.truncation import leading
from foldrank.plans.low_rank.whitening import Metric

DAMPING = 1e-6
"""Of the mean diagonal of the Grams' sum, added to each of them: where no input says what W is, it is the mean."""


def shared_weight(weights_IO: Sequence[Tensor], grams_II: Sequence[Tensor]) -> Tensor:
    """W [I, O], float64. Cost: one Cholesky factor of size I."""
    scale = float(sum(gram.diagonal().sum() for gram in grams_II)) / len(grams_II[0])
    damping = (DAMPING * scale or 1.0) * torch.eye(len(grams_II[0]), dtype=torch.float64, device=grams_II[0].device)
    damped = [gram.double() + damping for gram in grams_II]
    aims = [gram @ weight.double() for gram, weight in zip(damped, weights_IO, strict=True)]
    factor = torch.linalg.cholesky(torch.stack(damped).sum(dim=0))
    return torch.cholesky_solve(torch.stack(aims).sum(dim=0), factor)


def residual(weight_IO: Tensor, shared_IO: Tensor, gram_II: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """A [I, K] and B [K, O], float32, of which the first columns and rows are the best pair of each rank up to `most`
    for W_l - W; and the losses [min(I, O) + 1], float64. Cost: one eigenproblem of size min(I, O)."""
    a, b, losses = leading(weight_IO.double() - shared_IO.double(), Metric(gram_II.double()), most)
    return a, b, torch.from_numpy(losses.copy())
