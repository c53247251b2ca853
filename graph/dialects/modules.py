"""Which linear map a transformers module is: its path inside a decoder block, for all families that are known.

GPT-NeoX and Falcon pack q, k, v head by head (`query_key_value`): no run of columns is one role, so it is no site here.
"""

from __future__ import annotations

import re

_ROLES: dict[str, tuple[str, ...]] = {
    "attn.q_proj": ("q",), "attn.k_proj": ("k",), "attn.v_proj": ("v",), "attn.o_proj": ("o",),
    "attn.qkv_proj": ("q", "k", "v"), "attn.out_proj": ("o",), "attn.c_attn": ("q", "k", "v"), "attn.c_proj": ("o",),
    "attn.dense": ("o",),
    "mlp.gate_proj": ("gate",), "mlp.up_proj": ("up",), "mlp.down_proj": ("down",), "mlp.gate_up_proj": ("gate", "up"),
    "mlp.c_fc": ("up",), "mlp.c_proj": ("down",), "mlp.fc1": ("up",), "mlp.fc2": ("down",),
    "mlp.dense_h_to_4h": ("up",), "mlp.dense_4h_to_h": ("down",),
    "fc1": ("up",), "fc2": ("down",),
}
"""An MLP without a gate has `up` and `down` alone."""

_ATTENTION = re.compile(r"^(?:self_attn|self_attention|attention|attn)\.")

LINEAR_OPERATORS = frozenset({
    "MatMul", "Gemm", "FusedMatMul", "MatMulNBits", "MatMulInteger", "MatMulIntegerToFloat", "QLinearMatMul",
    "DynamicQuantizeMatMul", "MatMulFpQ4", "MatMulBnb4",
})
"""Operators that may apply such a module; which of them have a plain matrix is seen elsewhere."""


def roles_of_module(path: str) -> tuple[str, ...] | None:
    """Roles, in storage order, of the module at this path inside a block (`self_attn.q_proj`)."""
    return _ROLES.get(_ATTENTION.sub("attn.", path))
