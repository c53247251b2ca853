"""replace_weight in PyTorch: other numbers in the same Linears."""

from __future__ import annotations

import numpy as np
import torch

from foldrank.edits.replace_weight import ReplaceWeight
from foldrank.plans.reference.model import Model


def edit(new: ReplaceWeight, model: Model) -> None:
    """Each role takes its columns of the tensor."""
    layer, tensor_IO, start = model.layers[new.site.block], model.arrays[new.tensor], 0
    for role in new.site.roles:
        linear = layer.linear(role)
        part = tensor_IO[:, start : start + linear.out_features]
        start += linear.out_features
        linear.weight.copy_(torch.from_numpy(np.array(part.T)))
