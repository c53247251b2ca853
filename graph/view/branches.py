"""Where a block's branch ends: the sum that adds its result to what went past it.

    x ──┬── norm ── branch ── bias, norm, multiplier ──┐
        └──────────────────────────────────────────────┴─ sum

Found by dataflow alone from the branch's last linear; of two branches side by side the first sum may add one to the
other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from foldrank.edits.base import BRANCHES, LAST, Branch
from foldrank.graph.linear.beside import adds_beside
from foldrank.graph.view.decoder import Block

SUMS = ("Add", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
"""Operators that add two values, the last two before they norm the sum."""


@dataclass(frozen=True)
class Join:
    """The node that adds a branch's result, and what it adds it to."""

    node: ir.Node
    other: ir.Value


def linears_of(block: Block, branch: Branch) -> dict[str, ir.Node]:
    """Nodes of the branch's linears, in few bits or not, by role."""
    held = [*((linear.roles, linear.node) for linear in block.linears),
            *((few.roles, few.node) for few in block.few_bits)]
    return {role: node for roles, node in held for role in roles if role in BRANCHES[branch]}


def join_of(graph: ir.Graph, block: Block, branch: Branch, flowing: set[ir.Node]) -> Join | str:
    """The branch's join, or why there is none in words. `flowing`: the stream's nodes."""
    last = linears_of(block, branch).get(LAST[branch])
    if last is None:
        opaque = f"; not plain matrices: {', '.join(block.opaque)}" if block.opaque else ""
        return f"its {LAST[branch]} is not to be found{opaque}"
    joins = list(_joins(graph, last, flowing))
    if len(joins) != 1:
        names = ", ".join(str(node.name) for node, _ in joins[:3]) or "nothing"
        return f"its result is not added in one place, but read by {names}"
    node, other = joins[0]
    if node.op_type not in SUMS or other is None:
        return f"its result meets the rest of the stream in {node.name} ({node.op_type}), which is no sum of the two"
    return Join(node, other)


def _joins(graph: ir.Graph, last: ir.Node, flowing: set[ir.Node]) -> Iterator[tuple[ir.Node, ir.Value | None]]:
    """Nodes of the stream that read the result, or what is made of it alone, and something else of the stream: the
    other value where it is one, read once."""
    carried = {id(value) for value in last.outputs}
    for node in graph:
        read = [value for value in node.inputs if value is not None and id(value) in carried]
        if node not in flowing or not read:
            continue
        rest = [value for value in node.inputs if value is not None and id(value) not in carried
                and value.producer() in flowing]
        if rest and not adds_beside(node):
            yield node, rest[0] if len(rest) == len(read) == 1 else None
        else:
            carried |= {id(value) for value in node.outputs}


def reached(values: Iterable[ir.Value], end: ir.Node | None) -> Sequence[ir.Node]:
    """All nodes that depend on these values, but for `end` and what depends on them through it alone."""
    found: dict[ir.Node, None] = {}
    pending = list(values)
    while pending:
        for node in pending.pop().consumers():
            if node is not end and node not in found:
                found[node] = None
                pending.extend(node.outputs)
    return list(found)
