"""add_bias in PyTorch: a Linear with a bias, or with another one, in the place of a role's."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from foldrank.edits.add_bias import AddBias
from foldrank.errors import PlanMismatch
from foldrank.plans.reference.model import Model


def edit(added: AddBias, model: Model) -> None:
    """The weight stays."""
    layer, role = model.layers[added.site.block], added.site.role
    old, bias = layer.linear(role), torch.from_numpy(np.array(model.arrays[added.bias]))
    if old.out_features != len(bias):
        raise PlanMismatch(added.site, f"gives {old.out_features} numbers, the plan adds {len(bias)}", "plan again")
    new = nn.Linear(old.in_features, old.out_features, dtype=old.weight.dtype)
    new.weight.copy_(old.weight)
    new.bias.copy_(bias if old.bias is None else old.bias + bias)
    layer.put(role, new.requires_grad_(False))
