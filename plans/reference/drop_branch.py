"""drop_branch in PyTorch: a module in the branch's place that gives zeros."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from foldrank.edits.base import BRANCHES
from foldrank.edits.drop_branch import DropBranch
from foldrank.plans.reference.model import Layer, Model


class NoAttention(nn.Module):
    """Gives zeros and no weights. transformers asks the cache of some block how many tokens came before, so tokens are
    counted in every block's: here as keys and values of one number each."""

    def __init__(self, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx

    def forward(self, *given: Any, **named: Any) -> tuple[Tensor, None]:
        inputs = (*given, *named.values())
        hidden_BTC = named["hidden_states"] if "hidden_states" in named else given[0]
        cache = next((value for value in inputs if isinstance(value, Cache)), None)
        if cache is not None:
            counted = hidden_BTC.new_zeros(hidden_BTC.shape[0], 1, hidden_BTC.shape[1], 1)
            cache.update(counted, counted, self.layer_idx)
        return torch.zeros_like(hidden_BTC), None


class Nothing(nn.Module):
    """Gives zeros of the width of what it is given."""

    def forward(self, hidden_BTC: Tensor) -> Tensor:
        return torch.zeros_like(hidden_BTC)


def edit(drop: DropBranch, model: Model) -> None:
    """A block that has nothing left leaves."""
    layer = model.layers[drop.block]
    if drop.branch == "attention":
        _put(layer, "o", NoAttention(drop.block))
    elif layer.places["down"][0] is layer.module:  # OPT: no module holds the two
        layer.put("up", nn.Identity())
        layer.put("down", Nothing())
    else:
        _put(layer, "down", Nothing())
    for role in BRANCHES[drop.branch]:
        layer.places.pop(role, None)
    if not layer.places:
        del model.layers[drop.block]


def _put(layer: Layer, last: str, module: nn.Module) -> None:
    """A module in the place of the one that holds the branch's last Linear."""
    parent = layer.places[last][0]
    name = next(name for name, child in layer.module.named_children() if child is parent)
    setattr(layer.module, name, module)
