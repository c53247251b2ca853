"""optimum-onnx (0.1): TorchScript node names, `/model/layers.7/self_attn/q_proj/MatMul`; weights have no names left.

What blocks share (angles with an axis put in) is named after block 0, where it was traced first.
"""

from __future__ import annotations

import re

import onnx_ir as ir

from foldrank.graph.dialects import Dialect
from foldrank.graph.dialects.modules import LINEAR_OPERATORS
from foldrank.model.modules import is_interleaved, roles_of_module

_BLOCK = re.compile(r"/(?:\w+/)*(?:layers|h|blocks|block)\.(\d{1,5})/(.+)")


def _recognizes(model: ir.Model) -> bool:
    return any(_BLOCK.fullmatch(node.name or "") for node in model.graph)


def _block_of(node: ir.Node) -> int | None:
    match = _BLOCK.fullmatch(node.name or "")
    return int(match.group(1)) if match else None


def _module(node: ir.Node) -> str:
    """Path inside its block of the module that a node is named after; empty outside of blocks."""
    match = _BLOCK.fullmatch(node.name or "")
    return match.group(2).rpartition("/")[0].replace("/", ".") if match else ""


def _roles_of(node: ir.Node) -> tuple[str, ...] | None:
    return roles_of_module(_module(node)) if node.op_type in LINEAR_OPERATORS else None


def _interleaves(node: ir.Node) -> bool:
    return is_interleaved(_module(node))


def _is_buffer(name: str) -> bool:
    return "rotary_emb" in name


DIALECT = Dialect("optimum", _recognizes, _block_of, _roles_of, _is_buffer, _interleaves)
