"""Which linear map a transformers module is: its path inside a decoder block, for all families that are known.

GPT-NeoX and Falcon pack q, k, v head by head (`query_key_value`): a site of all three, of none alone.
"""

from __future__ import annotations

import re

import onnx_ir as ir

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

ATTENTION_AND_UP = ("q", "k", "v", "up")
"""What reads the only norm of a block with parallel branches, in one weight."""
_INTERLEAVED = frozenset({"attn.query_key_value"})
_ATTENTION = re.compile(r"^(?:self_attn|self_attention|attention|attn)\.")

_EXPERTS = re.compile(r"(?:^|[/.])(?:experts|block_sparse_moe)(?:[/.']|$)")
SCOPES = ("pkg.torch.onnx.name_scopes", "namespace")
"""Metadata in which torch.onnx.export says what modules a node was traced in."""
_MIXING = frozenset({"MoE", "QMoE"})

LINEAR_OPERATORS = frozenset({
    "MatMul", "Gemm", "FusedMatMul", "MatMulNBits", "MatMulInteger", "MatMulIntegerToFloat", "QLinearMatMul",
    "DynamicQuantizeMatMul", "MatMulFpQ4", "MatMulBnb4",
})
"""Operators that may apply such a module; which of them have a plain matrix is seen elsewhere."""


def roles_of_module(path: str) -> tuple[str, ...] | None:
    """Roles, in storage order, of the module at this path inside a block (`self_attn.q_proj`)."""
    return _ROLES.get(_ATTENTION.sub("attn.", path))


def is_attention(path: str) -> bool:
    """Whether a path inside a block is of its attention."""
    return _ATTENTION.match(f"{path}.") is not None


def is_interleaved(path: str) -> bool:
    """Whether the module's output holds its roles head by head, so that none is a run of columns."""
    return _ATTENTION.sub("attn.", path) in _INTERLEAVED


def mixes_experts(node: ir.Node) -> bool:
    """Whether a node is part of a mixture of experts, by its operator, name or scopes."""
    return node.op_type in _MIXING or any(
        _EXPERTS.search(text) for text in (node.name or "", *(node.metadata_props.get(key, "") for key in SCOPES))
    )
