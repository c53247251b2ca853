"""What crosses from block to block, found by dataflow: values a block makes that the next one, or what follows, reads.

Removing blocks is connecting corresponding values of two boundaries. That they correspond is proved here, once.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from foldrank.errors import GraphNotRecognized
from foldrank.graph.blocks import Block

_Role = tuple[str, int, frozenset[tuple[str, int]]]
"""What a crossing value is: (operator that makes it, output slot, {(operator that reads it, input slot)})."""


def crossing_values(graph: ir.Graph, blocks: Sequence[Block], where: str) -> tuple[tuple[ir.Value, ...], ...]:
    """Values entering each block, and after them those leaving the last; equal places correspond from the second on.

    The first entry holds what block 0 alone reads of the embedding; it may be of another form (a residual that is no
    sum yet). Raises GraphNotRecognized where a value skips a block, flows back, or boundaries differ.
    """
    place = {node: i for i, block in enumerate(blocks) for node in block.nodes}
    end = len(blocks)
    boundaries = [_entering(graph, place)]
    for i, block in enumerate(blocks):
        crossing = [v for node in block.nodes for v in node.outputs if _leaves(v, i, place)]
        for value in crossing:
            targets = {place.get(node, end) for node in value.consumers() if place.get(node, end) != i}
            if targets != {i + 1}:
                raise GraphNotRecognized(
                    where, f"{value.name} goes from block {block.number} to another place than the next block",
                    "blocks of such a graph cannot be removed",
                )
        boundaries.append(tuple(crossing))
    return _corresponding(boundaries, blocks, place, where)


def _leaves(value: ir.Value, i: int, place: dict[ir.Node, int]) -> bool:
    return any(place.get(node, -1) != i for node in value.consumers())


def _entering(graph: ir.Graph, place: dict[ir.Node, int]) -> tuple[ir.Value, ...]:
    """Values made before the stack that only block 0 reads; what all blocks read (masks, angles) does not cross."""
    made = [v for node in graph if node not in place for v in node.outputs]
    return tuple(v for v in made if {place.get(node) for node in v.consumers()} == {0})


def _corresponding(
    boundaries: list[tuple[ir.Value, ...]], blocks: Sequence[Block], place: dict[ir.Node, int], where: str
) -> tuple[tuple[ir.Value, ...], ...]:
    """The boundaries with their values in the order of the first full one."""
    if len(boundaries) < 2:
        return tuple(boundaries)
    wanted = [_role(v, 0, place) for v in boundaries[1]]
    ordered = [boundaries[0]]
    for i, values in enumerate(boundaries[1:]):
        by_role = {_role(v, i, place): v for v in values}
        if set(by_role) != set(wanted) or len(values) != len(wanted):
            odd = sorted(str(r) for r in set(by_role) ^ set(wanted)) or ["their number"]
            raise GraphNotRecognized(
                where,
                f"what leaves block {blocks[i].number} differs from what leaves block {blocks[0].number}: {odd[0]}",
                "blocks of such a graph cannot be removed",
            )
        ordered.append(tuple(by_role[role] for role in wanted))
    return tuple(ordered)


def _role(value: ir.Value, i: int, place: dict[ir.Node, int]) -> _Role:
    producer = value.producer()
    readers = frozenset((use.node.op_type, use.idx) for use in value.uses() if place.get(use.node) != i)
    return (producer.op_type if producer is not None else "", value.index() or 0, readers)
