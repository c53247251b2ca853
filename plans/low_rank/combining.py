"""Several pairs on one site become one: y = x W + sum_i (x A_i) B_i.

Side by side, [A_1 A_2 ...] and [B_1; B_2; ...], they are their sum, at the sum of their ranks. Two ways to fewer:
    gram  the pair of a rank that errs least under the Gram matrix of the site's inputs: the truncation of the sum
          (`truncation.py`), in the space of the rows of B, so that its eigenproblem is as large as the sum of ranks
    lego  LoRA-LEGO (arXiv 2409.16167): each column a of A with its row b of B is a unit (a, b). k-means gathers units
          into as many clusters as ranks are wanted; each cluster's mean stands for it, scaled to the mean norm of its
          units, and the product times sqrt(r / k), r the rank of one adapter and k that of the result, so that it is as
          large as one adapter's and not as their sum's
Axes: I inputs, O outputs, R ranks. float64 within, pairs are float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from foldrank.plans.kmeans import kmeans
from foldrank.plans.low_rank.truncation import leading
from foldrank.plans.low_rank.whitening import Metric
from foldrank.plans.models.block import Pair


def side_by_side(pairs: Sequence[Pair]) -> Pair:
    """The pair whose product is their sum; of full rank at most."""
    a_IR, b_RO = torch.cat([pair.a for pair in pairs], dim=1), torch.cat([pair.b for pair in pairs])
    full = min(a_IR.shape[0], b_RO.shape[1])
    if a_IR.shape[1] <= full:
        return Pair(a_IR, b_RO)
    product = (a_IR.double() @ b_RO.double()).float()
    one = torch.eye(full, dtype=product.dtype, device=product.device)
    return Pair(product, one) if b_RO.shape[1] == full else Pair(one, product)


def truncated(pair: Pair, gram_II: Tensor, rank: int) -> Pair:
    """The best pair of that rank for inputs with that Gram matrix; B has orthonormal rows. Cost: an eigenproblem of
    the pair's own rank."""
    rows_OR, mixing = torch.linalg.qr(pair.b.double().T)
    a, b, _ = leading(pair.a.double() @ mixing.T, Metric(gram_II.double()), rank)
    return Pair(a, (b.double() @ rows_OR.T).float())


def clustered(pairs: Sequence[Pair], rank: int, seed: int) -> Pair:
    """LoRA-LEGO's pair of that rank, or of fewer where units coincide. A unit's norm is shared evenly by a and b before
    units are compared, since their product does not tell how it lies between them."""
    units_RV = torch.cat([_units(pair) for pair in pairs]).cpu().numpy()
    size = np.sqrt((units_RV**2).sum(axis=1).mean()) or 1.0
    labels = kmeans(units_RV / size, rank, seed)
    groups = [units_RV[labels == label] for label in np.unique(labels)]
    found = torch.from_numpy(np.stack([_representative(group) for group in groups]))
    a_KI, b_KO = found.split([pairs[0].a.shape[0], pairs[0].b.shape[1]], dim=1)
    one = sum(pair.a.shape[1] for pair in pairs) / len(pairs)
    a_IK = a_KI.T * (one / len(groups)) ** 0.5
    return Pair(*(half.float().contiguous().to(pairs[0].a.device) for half in (a_IK, b_KO)))


def _units(pair: Pair) -> Tensor:
    """(a, b) of every rank [R, I + O], |a| = |b|, float64."""
    a_RI, b_RO = pair.a.double().T, pair.b.double()
    sizes = a_RI.norm(dim=1), b_RO.norm(dim=1)
    even = (sizes[0] * sizes[1]).sqrt()
    scaled = [half * (even / size.clamp_min(1e-300))[:, None] for half, size in zip((a_RI, b_RO), sizes, strict=True)]
    return torch.cat(scaled, dim=1)


def _representative(units_NV: np.ndarray) -> np.ndarray:
    """Their mean, as large as they are on average."""
    mean = units_NV.mean(axis=0)
    size = np.linalg.norm(mean)
    found: np.ndarray = mean * (np.linalg.norm(units_NV, axis=1).mean() / size) if size else mean
    return found
