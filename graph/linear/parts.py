"""The parts of a packed linear's result: what a Split or Slices behind it take, in the order in which they lie."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from foldrank.graph.linear.beside import result_of
from foldrank.graph.linear.linears import Place, added_to, bias_of, stored_matrix

PLAIN = frozenset({"Reshape", "Identity", "Cast", "Squeeze", "Unsqueeze", "Add", "Flatten"})
"""Operators that only move numbers, but for the Add of a bias."""


def parts_of(node: ir.Node) -> list[ir.Value]:
    """Values of the parts along the last axis, or none where the result is not taken apart whole.

    Parts of each head (q, k, v interleaved) are not parts of the result: their widths do not make up its columns.
    """
    value = _undivided(node)
    readers = [reader for reader in value.consumers() if reader.op_type != "Shape"]
    columns = _columns(node)
    if len(readers) == 1 and readers[0].op_type == "Split":
        split = readers[0]
        sizes = _integers(split, "split", 1)
        if _last_axis(value, split) and (columns is None or sizes is None or sum(sizes) == columns):
            return list(split.outputs)
    if len(readers) > 1 and all(reader.op_type == "Slice" for reader in readers):
        spans = sorted((*span, reader.outputs[0]) for reader in readers if (span := _span(value, reader)))
        edges = [0, *(stop for _, stop, _ in spans[:-1])]
        whole = columns is not None and spans and spans[-1][1] >= columns
        if len(spans) == len(readers) and whole and edges == [start for start, _, _ in spans] and columns is not None \
                and (len(spans) < 3 or spans[1][1] - spans[1][0] == columns - spans[2][0]):
            return [part for _, _, part in spans]
    return []


def columns_of_parts(node: ir.Node) -> list[int]:
    """Columns of each part, or none where no Split says them."""
    makers = {part.producer() for part in parts_of(node)}
    sizes = [_integers(maker, "split", 1) for maker in makers if maker is not None]
    return (sizes[0] or []) if len(sizes) == 1 else []


def biases_of(node: ir.Node) -> tuple[Place, ...]:
    """Where biases are added to a linear's result: to all of it, or to its parts."""
    places = [bias_of(node)] if bias_of(node) else [added_to(part) for part in parts_of(node)]
    return tuple(place for place in places if place is not None)


def _undivided(node: ir.Node) -> ir.Value:
    """The linear's result, with its bias, in the shape in which it is taken apart."""
    value = result_of(node)
    bias = bias_of(node)
    if bias is not None and bias[0].op_type == "Add":
        value = bias[0].outputs[0]
    while True:
        readers = [reader for reader in value.consumers() if reader.op_type != "Shape"]
        if len(readers) != 1 or readers[0].op_type not in PLAIN - {"Add"}:
            return value
        value = readers[0].outputs[0]


def _columns(node: ir.Node) -> int | None:
    if (stored := stored_matrix(node)) is not None:
        return stored.shape[1]
    attribute = node.attributes.get("N")
    return attribute.as_int() if attribute is not None else None


def _last_axis(value: ir.Value, node: ir.Node) -> bool:
    attribute = node.attributes.get("axis")
    return _is_last(value, attribute.as_int() if attribute is not None else 0)


def rank_of(value: ir.Value | None) -> int:
    """Axes of a value; where they are not said: batch, sequence, columns."""
    return len(value.shape) if value is not None and value.shape is not None else 3


def _is_last(value: ir.Value, axis: int) -> bool:
    return axis in (-1, rank_of(value) - 1)


def _span(value: ir.Value, node: ir.Node) -> tuple[int, int] | None:
    starts, stops, axes, steps = (_integers(node, "", slot) for slot in (1, 2, 3, 4))
    if starts is None or stops is None or axes is None or len(starts) != 1 or steps not in (None, [1]):
        return None
    return (starts[0], stops[0]) if _is_last(value, axes[0]) else None


def _integers(node: ir.Node, attribute: str, slot: int) -> list[int] | None:
    if (found := node.attributes.get(attribute)) is not None:
        return list(found.as_ints())
    value = node.inputs[slot] if slot < len(node.inputs) else None
    tensor = _constant(value)
    return [int(n) for n in _flat(tensor)] if tensor is not None else None


def _constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    if value is None:
        return None
    maker = value.producer()
    if maker is None:
        return value.const_value if value.is_initializer() else None
    attribute = maker.attributes.get("value") if maker.op_type == "Constant" else None
    return attribute.as_tensor() if attribute is not None and attribute.type == ir.AttributeType.TENSOR else None


def _flat(tensor: ir.TensorProtocol) -> Iterator[int]:
    return iter(tensor.numpy().reshape(-1).tolist())
