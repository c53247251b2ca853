"""slice_mlp in PyTorch: Linears of fewer outputs, and for down of fewer inputs, in the places of the MLP's."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from foldrank.edits.slice_mlp import SliceMlp
from foldrank.errors import PlanMismatch
from foldrank.plans.reference.model import Model


def edit(slicing: SliceMlp, model: Model) -> None:
    """Copy what stays into new Linears; down has a bias after it where the plan or the checkpoint gives one."""
    layer, kept = model.layers[slicing.block], list(slicing.channels.numbers)
    for role in slicing.roles:
        old = layer.linear(role)
        width = old.in_features if role == "down" else old.out_features
        if width != slicing.shape[0]:
            raise PlanMismatch(slicing.name, f"{role} has {width} channels, the plan says {slicing.shape[0]}",
                               "plan again")
        if role != "down":
            new = nn.Linear(old.in_features, len(kept), bias=old.bias is not None, dtype=old.weight.dtype)
            new.weight.copy_(old.weight[kept])
            if old.bias is not None:
                new.bias.copy_(old.bias[kept])
        else:
            new = _down(old, kept, *(None if name is None else torch.from_numpy(np.array(model.arrays[name]))
                                     for name in (slicing.down, slicing.bias)))
        layer.put(role, new.requires_grad_(False))


def _down(old: nn.Linear, kept: list[int], down: torch.Tensor | None, bias: torch.Tensor | None) -> nn.Linear:
    biases = [part for part in (old.bias, bias) if part is not None]
    new = nn.Linear(len(kept), old.out_features, bias=bool(biases), dtype=old.weight.dtype)
    new.weight.copy_(old.weight[:, kept] if down is None else down.T)
    if biases:
        new.bias.zero_()
    for part in biases:
        new.bias.add_(part.to(new.bias.dtype))
    return new
