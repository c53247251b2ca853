"""Sizes that a graph computes with: numbers written into it, or made from how many columns a value has.

    Shape(x) --> Gather(-1) --> (+ 1) / 2 --> * 1 --> stop of a Slice of x    (torch.chunk, as older exporters write it)
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping

import onnx_ir as ir

from foldrank.graph.linear.parts import rank_of

_AS_IT_IS = frozenset({"Identity", "Cast", "Unsqueeze", "Squeeze", "Reshape"})
_OF_TWO: Mapping[str, Callable[[int, int], int]] = {
    "Add": operator.add, "Sub": operator.sub, "Mul": operator.mul, "Div": operator.floordiv}
"""Of sizes, which are not below 0."""


def numbers_of(value: ir.Value | None) -> list[int] | None:
    """Those of a constant; None of anything else."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else [int(n) for n in tensor.numpy().reshape(-1)]


def size_of(value: ir.Value | None, columns: Mapping[ir.Value, int]) -> list[int] | None:
    """Those of a constant, or one that follows from how many columns these values have; None where it does not."""
    if (written := numbers_of(value)) is not None:
        return written
    node = value.producer() if value is not None else None
    if node is None:
        return None
    if node.op_type in _AS_IT_IS:
        return size_of(node.inputs[0], columns)
    if node.op_type == "Gather":
        asked, place = _shape_of(node.inputs[0]), numbers_of(node.inputs[1])
        known = asked is not None and asked in columns and place in ([-1], [rank_of(asked) - 1])
        return [columns[asked]] if known and asked is not None else None
    compute = _OF_TWO.get(node.op_type)
    sides = [size_of(side, columns) for side in node.inputs] if compute is not None else []
    if compute is None or len(sides) != 2 or not all(side is not None and len(side) == 1 for side in sides):
        return None
    one, other = (side[0] for side in sides if side is not None)
    return None if node.op_type == "Div" and other < 1 else [compute(one, other)]


def _shape_of(value: ir.Value | None) -> ir.Value | None:
    """The value whose whole shape this is."""
    node = value.producer() if value is not None else None
    return node.inputs[0] if node is not None and node.op_type == "Shape" and not node.attributes else None
