"""The onnxruntime-genai model builder (0.18): node `/model/layers.7/mlp/down_proj/MatMul`, q, k, v packed or split.

The final norm is named `/model/layers.<number of blocks>/final_norm_layernorm`; no KV pair says that it is a block.
"""

from __future__ import annotations

import re

import onnx_ir as ir

from foldrank.graph.dialects import Dialect
from foldrank.graph.dialects.modules import LINEAR_OPERATORS

_BLOCK = re.compile(r"/model/layers\.(\d{1,5})/")
_ATTENTION = re.compile(r"/model/layers\.\d{1,5}/attn/")
"""transformers' own modules, whose paths other exporters keep, are called self_attn there."""
_LINEAR = re.compile(r"/model/layers\.\d+/(attn|mlp)/(\w+)_proj/MatMul\w*")
_ROLES = {
    ("attn", "qkv"): ("q", "k", "v"), ("attn", "q"): ("q",), ("attn", "k"): ("k",), ("attn", "v"): ("v",),
    ("attn", "o"): ("o",), ("mlp", "gate"): ("gate",), ("mlp", "up"): ("up",), ("mlp", "down"): ("down",),
    ("mlp", "gate_up"): ("gate", "up"),
}


def _recognizes(model: ir.Model) -> bool:
    return any(_ATTENTION.match(node.name or "") for node in model.graph)


def _block_of(node: ir.Node) -> int | None:
    match = _BLOCK.match(node.name or "")
    return int(match.group(1)) if match else None


def _roles_of(node: ir.Node) -> tuple[str, ...] | None:
    match = _LINEAR.fullmatch(node.name or "") if node.op_type in LINEAR_OPERATORS else None
    return _ROLES.get((match.group(1), match.group(2))) if match else None


def _is_buffer(name: str) -> bool:
    return name.startswith(("cos_cache", "sin_cache"))


DIALECT = Dialect("genai", _recognizes, _block_of, _roles_of, _is_buffer)
