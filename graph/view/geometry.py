"""Heads of a block: (query heads, KV heads, head size) from attention operators, cache shapes and widths of weights."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from foldrank.errors import GraphNotRecognized
from foldrank.graph.dataflow.cache import KVPair, axes
from foldrank.graph.dialects import Dialect
from foldrank.graph.linear.linears import pairs_in, stored_matrix, stored_parts, tensor_at
from foldrank.graph.view.blocks import linear_nodes

_ATTENTION = ("GroupQueryAttention", "MultiHeadAttention", "Attention", "PagedAttention")
_QKV = {"q", "k", "v"}
_HEADS = ("num_heads", "q_num_heads")

Geometry = tuple[int, int, int]


def geometry(nodes: Sequence[ir.Node], pair: KVPair, dialect: Dialect, where: str) -> Geometry:
    """(query heads, KV heads, head size). Raises GraphNotRecognized where they cannot be read."""
    shape = axes(pair.past[0])
    kv_heads, size = (shape[1], shape[3]) if len(shape) == 4 else (None, None)
    heads = _attribute(nodes)
    if isinstance(kv_heads, int):
        columns = _columns(nodes, dialect)
        if not isinstance(size, int) and heads:
            size = columns // (heads + 2 * kv_heads)
        if not heads and isinstance(size, int) and size:
            heads = (_read_by_o(nodes, dialect) or columns - 2 * kv_heads * size) // size
        if heads and heads > 0 and isinstance(size, int) and size:
            return heads, kv_heads, size
    raise GraphNotRecognized(where, f"block with KV pair {pair.number}: heads or head size cannot be read",
                             "export with `foldrank export`")


def _attribute(nodes: Sequence[ir.Node]) -> int | None:
    found = (node.attributes.get(name) for node in nodes if node.op_type in _ATTENTION for name in _HEADS)
    return next((attribute.as_int() for attribute in found if attribute is not None), None)


def _read_by_o(nodes: Sequence[ir.Node], dialect: Dialect) -> int:
    """Width of what `o` reads, which is that of all query heads; 0 where its weight does not tell."""
    for node, roles in linear_nodes(nodes, dialect):
        if roles == ("o",) and (stored := stored_matrix(node)) is not None:
            return stored.shape[0]
    return next((pair.shape[0] for pair in pairs_in(nodes) if pair.sites[0].roles == ("o",)), 0)


def _columns(nodes: Sequence[ir.Node], dialect: Dialect) -> int:
    """Output columns of q, k and v together: dense, quantised or paired."""
    found = 0
    for node, roles in linear_nodes(nodes, dialect):
        if set(roles) <= _QKV and (stored := stored_matrix(node)) is not None:
            found += stored.shape[1]
        elif set(roles) <= _QKV:
            found += _quantised_columns(node)
    pairs = (pair for pair in pairs_in(nodes) if {role for site in pair.sites for role in site.roles} <= _QKV)
    return found + sum(pair.shape[1] for pair in pairs)


def _quantised_columns(node: ir.Node) -> int:
    """A MatMulNBits says N; what is no plain matrix for another reason has columns on the last axis, [in, out] or
    [1, in, out], but for a Gemm's [out, in]."""
    if (attribute := node.attributes.get("N")) is not None:
        return attribute.as_int()
    turned = node.attributes.get("transB")
    axis = 0 if turned is not None and turned.as_int() else -1
    shapes = (tensor_at(place).shape.numpy() for place in stored_parts(node))
    return next((shape[axis] for shape in shapes if len(shape) > 1), 0)
