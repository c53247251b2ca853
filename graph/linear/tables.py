"""The table of words in few bits, told from what reads its rows, without reading it.

    numbers [words, ...], scales [words, blocks] ── GatherBlockQuantized                         (ONNX Runtime)
    numbers ── (Transpose) ── Gather ──┐
    scales  ── (Transpose) ── Gather ──┴── DequantizeLinear, by blocks of the last axis          (standard)
"""

from __future__ import annotations

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
        values = [_behind(value) for value in node.inputs if value is not node.inputs[1]]
        return _table("nbits", values, _integer(node, "bits", 4), _integer(node, "block_size", 128), turned=False)
    users = node.outputs[0].consumers()
    reader = users[0] if len(users) == 1 else None
    if node.op_type != "Gather" or reader is None or reader.op_type != "DequantizeLinear":
        return None
    makers = [value.producer() for value in reader.inputs if value is not None]
    if any(maker is None or maker.op_type != "Gather" for maker in makers):
        return None
    tables = [maker.inputs[0] for maker in makers if maker is not None]
    values = [_behind(table) for table in tables]
    numbers = values[0].const_value if values[0] is not None else None
    bits = 8 if numbers is None else numbers.dtype.bitwidth
    return _table("qdq", values, bits, _integer(reader, "block_size", 0), turned=values[0] is not tables[0])


def _table(
    form: Form, values: list[ir.Value | None], bits: int, block_size: int, *, turned: bool
) -> Table | None:
    found = [value for value in values if value is not None]
    if len(found) < 2 or len(found) != len(values):
        return None
    scales = found[1].const_value
    if scales is None or len(scales.shape) != 2 or not block_size:
        return None
    words, blocks = reversed(scales.shape.numpy()) if turned else scales.shape.numpy()
    return Table(form, bits, block_size, blocks * block_size, words, found[0], tuple(found[1:]))


def _behind(value: ir.Value | None) -> ir.Value | None:
    """The initializer, before it is turned or laid out anew."""
    producer = value.producer() if value is not None else None
    if producer is not None and producer.op_type in ("Transpose", "Reshape"):
        value = producer.inputs[0]
    return value if value is not None and value.is_initializer() else None


def _integer(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return attribute.as_int() if attribute is not None else default
