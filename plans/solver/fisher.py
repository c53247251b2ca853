"""What cutting a site's rank is expected to cost in nats, from two-sided whitening (K-FAC, arXiv 1503.05671).

For a change dW [I, O] of one site the loss rises by 1/2 E[(x dW g^T)^2] to second order, x the site's input and g the
gradient of the summed log likelihood by its output, labels drawn from the model itself. With x and g taken as
independent that is 1/2 tr(dW^T G dW F), G = E[x^T x] and F = E[g^T g] over tokens. Truncating W under both whitenings,
the loss at each rank is half the sum of the eigenvalues dropped. Holds while the loss is small: to shortlist, not to
decide.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from foldrank.plans.low_rank.truncation import truncation_losses
from foldrank.plans.low_rank.whitening import Metric
from foldrank.plans.models.block import Block
from foldrank.plans.solver.layout import Roles
from foldrank.plans.solver.moments import Moments, weighed

Curve = np.ndarray
"""Expected loss in nats a token at each rank, from 0 to min(I, O)."""

Roots = Mapping[int, Mapping[Roles, Tensor]]
"""R [O, O] of sites, lower triangular, float32, R R^T = F with damping: what an error at each output costs. By block
number."""

Curves = Mapping[int, Mapping[Roles, Curve]]
"""Curve of every site, by block number."""

DAMPING = 0.1
"""Share of the mean that is added to the diagonal of F. KL in nats on text not fit to, specs-300k at keep 0.9, one
layout, at 1 / 0.3 / 0.1 / 0.01: 0.0765 / 0.0743 / 0.0740 / 0.0739; with F left out 0.0892."""


def predicted_losses(block: Block, moments: Moments, tokens: int) -> dict[Roles, Curve]:
    """Curve of every site of a block. Cost: two eigenproblems a site."""
    metrics = {id(sums): Metric(sums / tokens) for sums in moments.inputs.values()}  # sites of one input share its root
    return {
        roles: curve(_weight(block, roles), metrics[id(sums)], moments.outputs[roles] / tokens)
        for roles, sums in moments.inputs.items()
    }


def output_roots(moments: Moments) -> dict[Roles, Tensor]:
    """R of every site of a block whose outputs' products are held."""
    return {roles: _root(sums) for roles, sums in moments.outputs.items() if sums.dim() == 2}


def _root(fisher_OO: Tensor) -> Tensor:
    damping = (DAMPING * fisher_OO.diagonal().mean()).clamp_min(torch.finfo(torch.float32).tiny)
    root = torch.linalg.cholesky(fisher_OO + damping * torch.eye(len(fisher_OO), device=fisher_OO.device))
    return root.to(torch.float32)


def curve(weight_IO: Tensor, inputs: Metric, outputs: Tensor) -> Curve:
    """Expected loss at each rank of one site, from the means G [I, I] and F [O, O], or its diagonal [O], over
    tokens."""
    root = outputs.sqrt() if outputs.dim() == 1 else Metric(outputs).root
    return truncation_losses(weighed(weight_IO.to(torch.float64), root), inputs) / 2


def _weight(block: Block, roles: Roles) -> Tensor:
    return torch.cat([block.weight(role) for role in roles], dim=1)
