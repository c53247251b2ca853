"""low_rank in PyTorch: two Linears in the place of each role's one."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from foldrank.edits.low_rank import LowRank
from foldrank.errors import PlanMismatch
from foldrank.plans.reference.model import Model


def edit(pair: LowRank, model: Model) -> None:
    """Roles of a packed site share A and take their columns of B."""
    layer, site = model.layers[pair.site.block], pair.site
    a_IR, b_RO = (model.arrays[name] for name in pair.factors)
    start = 0
    for role in site.roles:
        old = layer.linear(role)
        b = b_RO[:, start : start + old.out_features]
        start += old.out_features
        down = nn.Linear(old.in_features, a_IR.shape[1], bias=False, dtype=old.weight.dtype)
        up = nn.Linear(a_IR.shape[1], old.out_features, bias=old.bias is not None, dtype=old.weight.dtype)
        down.weight.copy_(torch.from_numpy(np.array(a_IR.T)))
        up.weight.copy_(torch.from_numpy(np.array(b.T)))
        if old.bias is not None:
            up.bias.copy_(old.bias)
        layer.put(role, nn.Sequential(down, up))
    if start != b_RO.shape[1]:
        raise PlanMismatch(site, f"its factors write {b_RO.shape[1]} columns, the checkpoint has {start}", "plan again")
