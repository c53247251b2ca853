"""pre_rmsnorm in PyTorch: Linears that write to the stream centred, torch's RMSNorm for LayerNorm, b W in biases."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from foldrank.edits.pre_rmsnorm import PreRmsnorm
from foldrank.errors import PlanMismatch
from foldrank.plans.reference.model import Layer, Model

_READERS = {"attention": ("q", "k", "v"), "mlp": ("gate", "up")}
_WRITERS = {"attention": "o", "mlp": "down"}
_NAMES = {"attention": ("input_layernorm", "ln_1", "self_attn_layer_norm", "ln_attn"),
          "mlp": ("post_attention_layernorm", "ln_2", "final_layer_norm", "ln_mlp")}
"""Of norms in a block. One alone serves both branches."""


def edit(change: PreRmsnorm, model: Model) -> None:
    """Of the final norm the bias stays."""
    final = model.final()
    if not isinstance(final, nn.LayerNorm) or getattr(model.whole.config, "do_layer_norm_before", True) is False:
        what = f"{type(model.whole).__name__} has no LayerNorm behind its blocks and before each branch"
        raise PlanMismatch("the stream", what, "plan again")
    norms = {number: _norms(layer.module) for number, layer in model.layers.items()}
    if (width := model.whole.config.hidden_size) != change.width:
        raise PlanMismatch("the stream", f"has {width} channels, the plan says {change.width}", "plan again")
    for number, branch in change.branches:
        layer = model.layers[number]
        _centre(layer, branch, getattr(layer.module, norms[number][branch]))
    for number, layer in model.layers.items():
        put = {name: _rms(getattr(layer.module, name)) for name in set(norms[number].values())}
        for name, norm in put.items():
            setattr(layer.module, name, norm)
        model.norms.update({(number, branch): put[name] for branch, name in norms[number].items()})
    model.centre(nn.Sequential(_rms(final), _Plus(final.bias)))


class _Plus(nn.Module):
    """Adds a vector, where there is one."""

    def __init__(self, vector: torch.Tensor | None) -> None:
        super().__init__()
        self.vector = vector

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden if self.vector is None else hidden + self.vector


def _norms(module: nn.Module) -> dict[str, str]:
    """The name of the LayerNorm before each branch."""
    held = {branch: name for branch, names in _NAMES.items() for name in names
            if isinstance(getattr(module, name, None), nn.LayerNorm)}
    if not held:
        raise PlanMismatch(type(module).__name__, "has no LayerNorm before its branches", "plan again")
    return {branch: held.get(branch, min(held.values())) for branch in _NAMES}


def _centre(layer: Layer, branch: str, norm: nn.LayerNorm) -> None:
    for role in _READERS[branch]:
        if role in layer.places and norm.bias is not None:
            old = layer.linear(role)
            new = nn.Linear(old.in_features, old.out_features, dtype=old.weight.dtype)
            new.weight.copy_(old.weight)
            added = old.weight.double() @ norm.bias.double()
            new.bias.copy_(added if old.bias is None else added + old.bias.double())
            layer.put(role, new.requires_grad_(False))
    writer = layer.linear(_WRITERS[branch])
    width = writer.out_features
    apart = torch.eye(width, dtype=torch.float64) - torch.full((width, width), 1 / width, dtype=torch.float64)
    writer.weight.copy_(apart @ writer.weight.double())
    if writer.bias is not None:
        writer.bias.copy_(apart @ writer.bias.double())


def _rms(norm: Any) -> nn.RMSNorm:
    made = nn.RMSNorm(norm.normalized_shape, eps=norm.eps, dtype=norm.weight.dtype)
    made.weight.copy_(norm.weight)
    return made.requires_grad_(False)
