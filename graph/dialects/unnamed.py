"""A graph whose nodes have no names that say anything: blocks and roles by dataflow, or by the marks a pass left.

Marks are needed once a graph is edited: blocks of which one holds a low-rank pair do not repeat any more.
"""

from __future__ import annotations

import onnx_ir as ir

from foldrank.errors import GraphNotRecognized
from foldrank.graph.dataflow.cache import kv_pairs
from foldrank.graph.dataflow.membership import stream
from foldrank.graph.dataflow.repeats import blocks_by_flow
from foldrank.graph.dialects import Dialect
from foldrank.graph.dialects.roles import Roles, roles_by_flow
from foldrank.graph.linear.marks import ROLES, block_of

NAME = "unnamed"
_TABLES = {"GroupQueryAttention": 3, "RotaryEmbedding": 1, "MultiHeadAttention": 3}
"""Operators that read tables of angles, and from which input slot on."""
_LAYOUT = ("Transpose", "Cast", "Identity", "Reshape", "DequantizeLinear", "Unsqueeze")


def survey(model: ir.Model, where: str) -> Dialect:
    """A dialect for this graph alone. Raises GraphNotRecognized, naming what comes nearest to a repeating block."""
    graph = model.graph
    pairs = kv_pairs(graph, where)
    flowing = stream(graph, (value for pair in pairs for value in pair.past))
    if is_marked(graph):
        return _dialect(graph, flowing, {}, {})
    blocks = blocks_by_flow(graph, pairs, flowing, where)
    roles: Roles = {}
    for pair in pairs:
        roles |= roles_by_flow([node for node, number in blocks.items() if number == pair.number], flowing, pair)
    if not roles:
        what = "blocks repeat, but which of their linears is q, k, v, o or of the MLP cannot be told"
        raise GraphNotRecognized(where, what, "export with node names, or with `foldrank export`")
    return _dialect(graph, flowing, blocks, roles)


def is_marked(graph: ir.Graph) -> bool:
    """Whether a pass has written blocks down."""
    return any(block_of(node) is not None for node in graph)


def _dialect(graph: ir.Graph, flowing: set[ir.Node], blocks: dict[ir.Node, int], roles: Roles) -> Dialect:
    def roles_of(node: ir.Node) -> tuple[str, ...] | None:
        marked = node.metadata_props.get(ROLES)
        return tuple(marked.split(",")) if marked else roles.get(node)

    return Dialect(
        NAME, lambda _: True, lambda node: blocks.get(node, block_of(node)), roles_of,
        lambda name: not _is_parameter(graph.initializers[name], flowing),
    )


def _is_parameter(value: ir.Value, flowing: set[ir.Node], steps: int = 4) -> bool:
    """Whether the stream reads an initializer itself, or after a lookup or a change of layout: what angles are computed
    from is none. Tables looked up by position are (some are learned), and single numbers, as in every dialect."""
    if value.const_value is not None and value.const_value.size == 1:
        return True
    for use in value.uses():
        operator = use.node.op_type
        if use.node in flowing:
            if use.idx < _TABLES.get(operator, use.idx + 1):
                return True
        elif (operator == "Gather" and not use.idx) or (operator in _LAYOUT and steps and any(
            _is_parameter(output, flowing, steps - 1) for output in use.node.outputs
        )):
            return True
    return False
