"""A model's blocks with one nn.Linear per role, for the reference: packed weights and Conv1D come apart.

Written from the modules themselves and the config's head counts; knows nothing of the planner's table of families.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

_STACKS = ("model.layers", "transformer.h", "model.decoder.layers", "gpt_neox.layers")
_SINGLE = {
    "q": ("self_attn.q_proj",), "k": ("self_attn.k_proj",), "v": ("self_attn.v_proj",),
    "o": ("self_attn.o_proj", "self_attn.out_proj", "attn.c_proj", "attention.dense", "self_attention.dense"),
    "gate": ("mlp.gate_proj",), "up": ("mlp.up_proj", "mlp.c_fc", "fc1", "mlp.dense_h_to_4h"),
    "down": ("mlp.down_proj", "mlp.c_proj", "fc2", "mlp.dense_4h_to_h"),
}
_INTERLEAVED = ("attention.query_key_value", "self_attention.query_key_value")
"""q, k and v head by head: cut in storage order all the same, as plans count their columns, and joined again."""
_PACKED = {
    "self_attn.qkv_proj": ("q", "k", "v"), "attn.c_attn": ("q", "k", "v"), "mlp.gate_up_proj": ("gate", "up"),
    **dict.fromkeys(_INTERLEAVED, ("q", "k", "v")),
}


class Side(nn.ModuleDict):
    """Modules that read one input, by role; their outputs side by side."""

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.cat([module(inputs) for module in self.values()], dim=-1)


def stack(model: nn.Module) -> tuple[nn.Module, str]:
    """The module that holds the list of blocks, and the list's name."""
    for path in _STACKS:
        parent, _, name = path.rpartition(".")
        try:
            model.get_submodule(path)
        except AttributeError:
            continue
        return model.get_submodule(parent), name
    raise ValueError(f"{type(model).__name__}: no list of blocks at {', '.join(_STACKS)}")


def unpack(layer: nn.Module, config: Any) -> dict[str, tuple[nn.Module, str]]:
    """Take packed and Conv1D weights of a block apart; for each role the module that holds its Linear, and the name.
    A block that was taken apart stays so."""
    places: dict[str, tuple[nn.Module, str]] = {}
    for path, roles in _PACKED.items():
        parent, name = _parent(layer, path)
        if parent is not None:
            side = getattr(parent, name)
            if not isinstance(side, Side):
                whole = _linear(side)
                side = Side(dict(zip(roles, _parts(whole, _widths(roles, whole, config)), strict=True)))
                setattr(parent, name, side)
            places |= {role: (side, role) for role in roles}
    for role, paths in _SINGLE.items():
        for path in paths:
            parent, name = _parent(layer, path)
            if parent is not None:
                setattr(parent, name, _linear(getattr(parent, name)))
                places[role] = (parent, name)
    return places


def _parent(layer: nn.Module, path: str) -> tuple[nn.Module | None, str]:
    home, _, name = path.rpartition(".")
    try:
        parent = layer.get_submodule(home)
    except AttributeError:
        return None, name
    return (parent if hasattr(parent, name) else None), name


def _linear(module: Any) -> nn.Linear:
    if isinstance(module, Conv1D):
        return _made(module.weight.T, module.bias)
    return module


def _widths(roles: tuple[str, ...], whole: nn.Linear, config: Any) -> list[int]:
    if roles == ("gate", "up"):
        return [whole.out_features // 2] * 2
    heads = config.num_attention_heads
    queries = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    keys = (whole.out_features - queries) // 2
    return [queries, keys, keys]


def _parts(whole: nn.Linear, widths: list[int]) -> list[nn.Linear]:
    biases = [None] * len(widths) if whole.bias is None else whole.bias.split(widths)
    return [_made(weight, bias) for weight, bias in zip(whole.weight.split(widths), biases, strict=True)]


def _made(weight_OI: Tensor, bias_O: Tensor | None) -> nn.Linear:
    made = nn.Linear(weight_OI.shape[1], weight_OI.shape[0], bias=bias_O is not None, dtype=weight_OI.dtype)
    with torch.no_grad():
        made.weight.copy_(weight_OI)
        if bias_O is not None:
            made.bias.copy_(bias_O)
    return made.requires_grad_(False)
