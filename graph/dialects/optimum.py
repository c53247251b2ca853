"""optimum-onnx (0.1): TorchScript node names, `/model/layers.7/self_attn/q_proj/MatMul`; weights have no names left.

What blocks share (angles with an axis put in) is named after block 0, where it was traced first.
"""

from __future__ import annotations

import re

import onnx_ir as ir

from foldrank.graph.dialects import Dialect
from foldrank.graph.dialects.modules import LINEAR_OPERATORS, roles_of_module

_BLOCK = re.compile(r"/(?:\w+/)*(?:layers|h|blocks|block)\.(\d{1,5})/(.+)")


def _recognizes(model: ir.Model) -> bool:
    return any(_BLOCK.fullmatch(node.name or "") for node in model.graph)


def _block_of(node: ir.Node) -> int | None:
    match = _BLOCK.fullmatch(node.name or "")
    return int(match.group(1)) if match else None


def _roles_of(node: ir.Node) -> tuple[str, ...] | None:
    match = _BLOCK.fullmatch(node.name or "")
    if match is None or node.op_type not in LINEAR_OPERATORS:
        return None
    return roles_of_module(match.group(2).rpartition("/")[0].replace("/", "."))


def _is_buffer(name: str) -> bool:
    return "rotary_emb" in name


DIALECT = Dialect("optimum", _recognizes, _block_of, _roles_of, _is_buffer)
