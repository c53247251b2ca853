"""fold_blocks in PyTorch: the combination, in float64, written into one block; the others leave."""

from __future__ import annotations

import torch
from torch import nn

from foldrank.edits.fold_blocks import FoldBlocks
from foldrank.plans.reference.model import Model


def edit(fold: FoldBlocks, model: Model) -> None:
    """Write the combination into block `into`. Sums run over copies taken before the first write."""
    layers = model.layers
    into, weights = layers[fold.into].module, {}
    roles = {layers[fold.into].linear(role): role for role in layers[fold.into].places}
    for name, parameter in into.named_parameters():
        linear = into.get_submodule(name.rpartition(".")[0])
        if not isinstance(linear, nn.Linear):  # the gains of a norm
            weights[name] = layers[fold.norm_source].module.get_parameter(name).detach().clone()
            continue
        total = torch.zeros_like(parameter, dtype=torch.float64)
        for number, share in fold.of(roles[linear]).items():
            total += share * layers[number].module.get_parameter(name).detach().to(torch.float64)
        weights[name] = total.to(parameter.dtype)
    for name, parameter in into.named_parameters():
        parameter.copy_(weights[name])
    for number in fold.leaving:
        del layers[number]
