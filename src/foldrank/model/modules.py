"""What a transformers module is by its name: which linear map of which block, for all families that are known.

GPT-NeoX and Falcon pack q, k, v head by head (`query_key_value`): a site of all three, of none alone. The planner's and
the reference's tables of families stay apart from this one: that three agree is what a proof rests on.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import TypeVar

_BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blocks|layer)\.(\d+)\.(.+)$")
_ROLES: dict[str, tuple[str, ...]] = {
    "attn.q_proj": ("q",), "attn.k_proj": ("k",), "attn.v_proj": ("v",), "attn.o_proj": ("o",),
    "attn.qkv_proj": ("q", "k", "v"), "attn.out_proj": ("o",), "attn.c_attn": ("q", "k", "v"), "attn.c_proj": ("o",),
    "attn.query_key_value": ("q", "k", "v"), "attn.dense": ("o",),
    "mlp.gate_proj": ("gate",), "mlp.up_proj": ("up",), "mlp.down_proj": ("down",), "mlp.gate_up_proj": ("gate", "up"),
    "mlp.c_fc": ("up",), "mlp.c_proj": ("down",), "mlp.fc1": ("up",), "mlp.fc2": ("down",),
    "mlp.dense_h_to_4h": ("up",), "mlp.dense_4h_to_h": ("down",),
    "fc1": ("up",), "fc2": ("down",),
}
"""An MLP without a gate has `up` and `down` alone."""
_INTERLEAVED = frozenset({"attn.query_key_value"})
_ATTENTION = re.compile(r"^(?:self_attn|self_attention|attention|attn)\.")
_CONV1D = frozenset({"gpt2"})
"""Model types whose blocks hold transformers' Conv1D: weights [in, out], where a Linear's are [out, in]."""

T = TypeVar("T")


def roles_of_module(path: str) -> tuple[str, ...] | None:
    """Roles, in storage order, of the module at this path inside a block (`self_attn.q_proj`)."""
    return _ROLES.get(_ATTENTION.sub("attn.", path))


def is_attention(path: str) -> bool:
    """Whether a path inside a block is of its attention."""
    return _ATTENTION.match(f"{path}.") is not None


def is_interleaved(path: str) -> bool:
    """Whether the module's output holds its roles head by head, so that none is a run of columns."""
    return _ATTENTION.sub("attn.", path) in _INTERLEAVED


def stores_in_out(model_type: object) -> bool:
    """Whether a model's blocks store their matrices [in, out]."""
    return model_type in _CONV1D


def by_block(tensors: Mapping[str, T]) -> dict[int, dict[str, T]]:
    """What lies in each block, by its name there."""
    found: dict[int, dict[str, T]] = defaultdict(dict)
    for name, tensor in tensors.items():
        if match := _BLOCK.search(name):
            found[int(match[1])][match[2]] = tensor
    return dict(found)


def role_widths(roles: tuple[str, ...], columns: int, geometry: tuple[int, int, int]) -> tuple[int, ...]:
    """Columns of each role of one weight. Heads tell for q, k, v; gate and up halve; the rest is alone. `geometry`:
    (heads, KV heads, head size)."""
    heads, kv_heads, size = geometry
    if len(roles) == 1:
        return (columns,)
    if set(roles) == {"q", "k", "v"}:  # a cache may hold more KV heads than the weight makes (Falcon repeats them)
        return (heads * size, *[(columns - heads * size) // 2] * 2)
    if set(roles) <= {"q", "k", "v"}:
        return tuple((heads if role == "q" else kv_heads) * size for role in roles)
    return (columns // len(roles),) * len(roles)
