"""slice_mlp for the planner: columns of gate and up, rows of down (or another down), a bias behind it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from foldrank.edits.base import BRANCHES
from foldrank.edits.slice_mlp import SliceMlp
from foldrank.plans.models.block import Block, widened
from foldrank.plans.models.decoder import Decoder


def simulated(edit: SliceMlp, decoder: Decoder, arrays: Mapping[str, np.ndarray]) -> Decoder:
    """The decoder with the narrower MLP."""
    down, bias = (None if name is None else torch.from_numpy(np.array(arrays[name])).to(decoder.device)
                  for name in (edit.down, edit.bias))
    kept = torch.tensor(edit.channels.numbers, device=decoder.device)
    return decoder.with_block(sliced(decoder.block(edit.block), kept, down, bias))


def sliced(block: Block, kept_K: Tensor, down_KO: Tensor | None = None, bias_O: Tensor | None = None) -> Block:
    """The block with these channels alone; rows of down as they are where no other down is given."""
    family, tensors = block.family, dict(block.tensors)
    module = block.module
    for path in dict.fromkeys(family.path(role) for role in BRANCHES["mlp"] if role in block.roles):
        roles, turned = family.linears[path], isinstance(module.get_submodule(path), Conv1D)
        weight = tensors[f"{path}.weight"] if turned else tensors[f"{path}.weight"].T
        if roles == ("down",):
            new = weight[kept_K] if down_KO is None else down_KO
            if bias_O is not None:
                old = tensors.get(f"{path}.bias")
                tensors[f"{path}.bias"] = bias_O if old is None else widened(old) + bias_O
        else:
            width = weight.shape[1] // len(roles)
            columns = torch.cat([kept_K + width * place for place in range(len(roles))])
            new = weight[:, columns]
            if f"{path}.bias" in tensors:
                tensors[f"{path}.bias"] = tensors[f"{path}.bias"][columns]
        tensors[f"{path}.weight"] = new.contiguous() if turned else new.T.contiguous()
        if turned:
            module = _widened_by(module, path.split("."), new.shape[1])
    left = {roles: pair for roles, pair in block.pairs.items() if not set(roles) & set(BRANCHES["mlp"])}
    return replace(block, tensors=tensors, module=module, pairs=left)


def _widened_by(module: nn.Module, path: list[str], width: int) -> nn.Module:
    """The module with the Conv1D at this path told its new width, as it shapes its output by that; what is not on the
    path is shared."""
    made: Any = copy.copy(module)
    if not path:
        made.nf = width
        return made
    made._modules = dict(module._modules)
    child = module._modules[path[0]]
    assert child is not None
    made._modules[path[0]] = _widened_by(child, path[1:], width)
    return made
