"""add_low_rank in PyTorch: two Linears beside what computes each role, their result added."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from foldrank.edits.add_low_rank import AddLowRank
from foldrank.errors import PlanMismatch
from foldrank.plans.reference.model import Model
from foldrank.plans.reference.modules import Sum


def edit(pair: AddLowRank, model: Model) -> None:
    """Roles of a packed site share A and take their columns of B."""
    layer, start = model.layers[pair.site.block], 0
    a_IR, b_RO = (torch.from_numpy(np.array(model.arrays[name])) for name in pair.factors)
    for role in pair.site.roles:
        first, last = (layer.linears(role)[place] for place in (0, -1))
        stop = start + last.out_features
        down, up = (nn.Linear(len(matrix), matrix.shape[1], bias=False, dtype=first.weight.dtype)
                    for matrix in (a_IR, b_RO[:, start:stop]))
        if down.in_features != first.in_features or up.out_features != last.out_features:
            break
        down.weight.copy_(a_IR.T)
        up.weight.copy_(b_RO[:, start:stop].T)
        layer.put(role, Sum(layer.module_of(role), nn.Sequential(down, up)))
        start = stop
    if start != b_RO.shape[1]:
        what = f"its factors are of {[len(a_IR), b_RO.shape[1]]}, the checkpoint has other shapes"
        raise PlanMismatch(pair.site, what, "plan again")
