"""Which nodes belong to which block: names where the exporter gave them, the flow of data where it did not.

Two kinds of nodes are told apart. The *stream* depends on the values of the tokens or of the cache; the rest (masks,
angles, lengths) depends on positions and shapes alone. Exporters name the rest after the block that was traced first;
what several blocks read of it is shared, belongs to none, and stays when blocks leave; what one block alone reads is
its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import onnx_ir as ir

_SHAPES = {"Shape", "Size"}
"""Operators that read no values of their input."""
_TOKENS = {"input_ids", "inputs_embeds"}


def stream(graph: ir.Graph, cache: Iterable[ir.Value]) -> set[ir.Node]:
    """Nodes that depend on values of tokens or of the cache's inputs."""
    flowing = {id(v) for v in graph.inputs if v.name in _TOKENS} | {id(v) for v in cache}
    found = set()
    for node in graph:
        if node.op_type not in _SHAPES and any(id(v) in flowing for v in node.inputs):
            found.add(node)
            flowing.update(id(v) for v in node.outputs)
    return found


def members(
    graph: ir.Graph, named: Callable[[ir.Node], int | None], flowing: set[ir.Node]
) -> dict[ir.Node, int]:
    """The block of each node that belongs to one. `flowing` as `stream` gives it."""
    found = {node: number for node in graph if (number := named(node)) is not None}
    found |= _between(graph, found, flowing)
    for node in reversed(graph):
        if node in flowing:
            continue
        readers = {found.get(reader) for value in node.outputs for reader in value.consumers()}
        if len(readers) == 1 and None not in readers:
            found[node] = next(number for number in readers if number is not None)
        elif readers:
            found.pop(node, None)
    return found


def _between(graph: ir.Graph, named: dict[ir.Node, int], flowing: set[ir.Node]) -> dict[ir.Node, int]:
    """Nodes of the stream without a name of a block, all of whose nearest named neighbours are of one block."""
    before: dict[ir.Node, set[int]] = {}
    for node in graph:
        if node in flowing:
            makers = [p for v in node.inputs if v is not None and (p := v.producer()) in flowing and p is not None]
            before[node] = set().union(*({named[p]} if p in named else before[p] for p in makers))
    after: dict[ir.Node, set[int]] = {}
    for node in reversed(graph):
        if node in flowing:
            readers = [r for v in node.outputs for r in v.consumers() if r in flowing]
            after[node] = set().union(*({named[r]} if r in named else after[r] for r in readers))
    return {
        node: next(iter(before[node])) for node in graph
        if node in flowing and node not in named and len(before[node]) == 1 and before[node] == after[node]
    }
