"""What crosses from block to block, found by dataflow: values a block makes that the next one, or what follows, reads.

Removing blocks is connecting corresponding values of two boundaries. That they correspond is proved here, once.
Reading a value's shape is no crossing: wherever the stream goes, its shape is the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from foldrank.errors import GraphNotRecognized
from foldrank.graph.linear.beside import product_of
from foldrank.graph.linear.head import LINEAR
from foldrank.graph.linear.linears import is_vector

_Role = tuple[str, int, frozenset[tuple[str, int]]]
"""What a crossing value is: (operator that makes it, output slot, {(operator that reads it, input slot)})."""
_REMEDY = "blocks of such a graph cannot be removed"


def crossing_values(
    graph: ir.Graph, blocks: Sequence[tuple[int, Sequence[ir.Node]]], flowing: set[ir.Node], where: str, *, whole: bool
) -> tuple[tuple[ir.Value, ...], ...]:
    """Values entering each block (number, nodes), and after them those leaving the last; equal places correspond from
    the second on.

    The first entry holds what block 0 alone reads of the embedding; it may be of another form (a residual that is no
    sum yet). Raises GraphNotRecognized where a value skips a block, flows back, or boundaries differ. Where blocks are
    not all `whole`, beside a dropped branch, what enters a block may pass it by: boundaries are as they are found.
    """
    place = {node: i for i, (_, nodes) in enumerate(blocks) for node in nodes}
    end = len(blocks)
    boundaries = [_entering(graph, place, flowing, alone=whole)]
    for i, (number, nodes) in enumerate(blocks):
        crossing = [v for node in nodes if node in flowing for v in node.outputs if _readers(v, i, place, flowing)]
        for value in crossing if whole else ():
            if odd := [r for r in _readers(value, i, place, flowing) if place.get(r, end) != i + 1]:
                what = f"{value.name} goes from block {number} to another place than the next block ({odd[0].name})"
                raise GraphNotRecognized(where, what, _REMEDY)
        boundaries.append(tuple(crossing))
    return _corresponding(boundaries, [n for n, _ in blocks], place, flowing, where) if whole else tuple(boundaries)


def _readers(value: ir.Value, i: int, place: dict[ir.Node, int], flowing: set[ir.Node]) -> list[ir.Node]:
    """Nodes of the stream outside block i that read the value."""
    return [node for node in value.consumers() if place.get(node, -1) != i and node in flowing]


def _entering(
    graph: ir.Graph, place: dict[ir.Node, int], flowing: set[ir.Node], *, alone: bool
) -> tuple[ir.Value, ...]:
    """Values of the stream made before the stack that block 0 reads, where `alone` none but it; what all blocks read
    does not cross."""
    made = [v for node in graph if node not in place and node in flowing for v in node.outputs]
    readers = [(v, {place.get(r) for r in v.consumers() if r in flowing}) for v in made]
    return tuple(v for v, some in readers if some == {0} or (not alone and 0 in some))


def _corresponding(
    boundaries: list[tuple[ir.Value, ...]], numbers: Sequence[int], place: dict[ir.Node, int], flowing: set[ir.Node],
    where: str,
) -> tuple[tuple[ir.Value, ...], ...]:
    """The boundaries with their values in the order of the first full one."""
    if not all(boundaries):
        number = numbers[max(0, next(i for i, values in enumerate(boundaries) if not values) - 1)]
        raise GraphNotRecognized(where, f"nothing enters or leaves block {number}", _REMEDY)
    wanted = [_role(v, 0, place, flowing) for v in boundaries[1]]
    ordered = [boundaries[0]]
    for i, values in enumerate(boundaries[1:]):
        by_role = {_role(v, i, place, flowing): v for v in values}
        if len(values) == len(wanted) == 1 and _same_kind(values[0], boundaries[1][0]):
            ordered.append(values)
            continue
        if set(by_role) != set(wanted) or len(values) != len(wanted):
            odd = sorted(str(r) for r in set(by_role) ^ set(wanted)) or ["their number"]
            here, first = (", ".join(str(v.name) for v in some) for some in (values, boundaries[1]))
            what = (f"what leaves block {numbers[i]} differs from what leaves block {numbers[0]}: {odd[0]}; "
                    f"nearest: {here} and {first}")
            raise GraphNotRecognized(where, what, _REMEDY)
        ordered.append(tuple(by_role[role] for role in wanted))
    return tuple(ordered)


def _same_kind(a: ir.Value, b: ir.Value) -> bool:
    """Whether the only value that crosses here and there is made by one operator, of one dtype and last axis."""
    widths = {v.shape[-1] for v in (a, b) if v.shape is not None and len(v.shape) and isinstance(v.shape[-1], int)}
    return _made_by(a) == _made_by(b) and len({v.dtype for v in (a, b)} - {None}) <= 1 and len(widths) <= 1


def _role(value: ir.Value, i: int, place: dict[ir.Node, int], flowing: set[ir.Node]) -> _Role:
    readers = frozenset(
        (use.node.op_type, use.idx) for use in value.uses() if place.get(use.node) != i and use.node in flowing
    )
    return (*_made_by(value), readers)


def _made_by(value: ir.Value) -> tuple[str, int]:
    """Operator and output slot, less a bias and a pair added last: blocks with one correspond to blocks without. A
    linear is one, however its matrix is stored."""
    value = product_of(value)
    producer = value.producer()
    if producer is not None and producer.op_type == "Add":
        others = [v for v in producer.inputs if v is not None and not is_vector(v)]
        if len(others) == 1:
            value = product_of(others[0])
            producer = value.producer()
    operator = producer.op_type if producer is not None else ""
    return ("linear" if operator in LINEAR else operator, value.index() or 0)
