"""The table of words in few bits, told from what reads its rows, without reading it.

    numbers [words, ...], scales [words, blocks] ── GatherBlockQuantized                         (ONNX Runtime)

    numbers ── (Transpose) ── Gather ── Cast ── Reshape ── (Sub) ── Mul                          (standard operators)
    zero points ── (Transpose) ── Gather ── Cast ── Reshape ─┘       │
    scales ── (Transpose) ── Gather ── Reshape ──────────────────────┘
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from foldrank.edits.storage import Form


@dataclass(frozen=True)
class Table:
    """What rows of few bits are read of. `parts`: scales, and zero points where it is not symmetric."""

    form: Form
    bits: int
    block_size: int
    width: int
    words: int
    numbers: ir.Value
    parts: tuple[ir.Value, ...]

    @property
    def symmetric(self) -> bool:
        """Whether it has no zero points."""
        return len(self.parts) < 2


def table_of(node: ir.Node) -> Table | None:
    """The table that one of a graph's lookups reads; None where it is of floats, or stored in yet another way."""
    if node.op_type == "GatherBlockQuantized":
        values = [_behind(value) for value in (node.inputs[0], *node.inputs[2:])]
        shape = _shape(values[1])
        size = _integer(node, "block_size", 128)
        return shape and _table("nbits", _integer(node, "bits", 4), size, (shape[0], shape[1] * size), values)
    if node.op_type != "Gather" or not _is_bytes(node.inputs[0]):
        return None
    if (step := _next(_next(node, "Cast"), "Reshape")) is None:
        return None
    shifted = _next(step, "Sub")
    product = _next(shifted or step, "Mul")
    if product is None:
        return None
    values = [node.inputs[0], _gathered(product.inputs[1])]
    if shifted is not None:
        values.append(_gathered(shifted.inputs[1]))
    numbers, scales = (_shape(value, turned=value is not _behind(value)) for value in values[:2])
    if numbers is None or scales is None or numbers[0] != scales[0] or numbers[1] % scales[1]:
        return None
    return _table("qdq", 8, numbers[1] // scales[1], numbers, [_behind(value) for value in values])


def _table(
    form: Form, bits: int, block_size: int, size: tuple[int, int], values: Sequence[ir.Value | None]
) -> Table | None:
    found = [value for value in values if value is not None]
    if len(found) < 2 or len(found) != len(values):
        return None
    return Table(form, bits, block_size, size[1], size[0], found[0], tuple(found[1:]))


def _next(node: ir.Node | None, op: str) -> ir.Node | None:
    """The only node that reads what this one gives, as its first input, where it is such an operator."""
    uses = list(node.outputs[0].uses()) if node is not None else []
    return uses[0].node if len(uses) == 1 and uses[0].idx == 0 and uses[0].node.op_type == op else None


def _gathered(value: ir.Value | None) -> ir.Value | None:
    """The table whose rows these are, laid out anew and cast."""
    node = value.producer() if value is not None else None
    while node is not None and node.op_type in ("Reshape", "Cast"):
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return node.inputs[0] if node is not None and node.op_type == "Gather" else None


def _is_bytes(value: ir.Value | None) -> bool:
    held = _behind(value)
    return held is not None and held.dtype in (ir.DataType.INT8, ir.DataType.UINT8)


def _shape(value: ir.Value | None, *, turned: bool = False) -> tuple[int, int] | None:
    """Of the matrix behind a value, turned where that is."""
    held = _behind(value)
    if held is None or held.const_value is None or len(held.const_value.shape) != 2:
        return None
    rows, columns = held.const_value.shape.numpy()
    return (columns, rows) if turned else (rows, columns)


def _behind(value: ir.Value | None) -> ir.Value | None:
    """The initializer, before it is turned or laid out anew."""
    producer = value.producer() if value is not None else None
    if producer is not None and producer.op_type in ("Transpose", "Reshape"):
        value = producer.inputs[0]
    return value if value is not None and value.is_initializer() else None


def _integer(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return attribute.as_int() if attribute is not None else default
