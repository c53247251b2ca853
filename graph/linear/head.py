"""The matrix that makes the logits, and the table of words; pairs in the place of them.

    x ── MatMul A ── MatMul B ── logits             tokens ── Gather B^T ── MatMul A^T ── vectors
"""

from __future__ import annotations

import onnx_ir as ir

from foldrank.graph.linear.linears import WEIGHT_TYPES, StoredMatrix, stored_matrix
from foldrank.graph.linear.marks import PART, TABLE
from foldrank.graph.linear.tables import table_of

LINEAR = frozenset({"MatMul", "Gemm", "FusedMatMul", "MatMulNBits"})
LOOKUP = frozenset({"Gather", "GatherBlockQuantized"})
_MOVING = frozenset({"Transpose", "Cast", "Reshape", "GatherElements", "DequantizeLinear"})


def head_of(graph: ir.Graph) -> ir.Node | None:
    """The last linear map before the logits: soft-capping and casts may stand between."""
    node = next((value.producer() for value in graph.outputs if value.name == "logits"), None)
    for _ in range(8):
        if node is None or node.op_type in LINEAR:
            return node
        node = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    return None


def lookups(graph: ir.Graph) -> list[ir.Node]:
    """What reads rows of a table by the tokens given: one node, unless a model has several tables. Of a table in few
    bits that standard operators read, that of its numbers."""
    ids = {value for value in graph.inputs if value.name == "input_ids"}
    found = [node for node in graph if node.op_type in LOOKUP and root(node.inputs[1]) in ids]
    parts = {part for node in found if (table := table_of(node)) is not None for part in table.parts}
    return [node for node in found if node.op_type != "Gather" or root(node.inputs[0]) not in parts]


def stored_table(node: ir.Node) -> StoredMatrix | None:
    """The table that a Gather reads rows of, [width, words] as a head would hold it; None where it is no matrix of
    floats."""
    value = node.inputs[0]
    producer = value.producer() if value is not None else None
    turned = producer is not None and producer.op_type == "Transpose"
    place = (producer, 0) if producer is not None and turned else (node, 0)
    table = place[0].inputs[0]
    tensor = table.const_value if table is not None and table.is_initializer() else None
    if node.op_type != "Gather" or tensor is None or len(tensor.shape) != 2 or tensor.dtype not in WEIGHT_TYPES:
        return None
    return StoredMatrix(place, transposed=not turned)


def factor_of_head(head: ir.Node) -> StoredMatrix | None:
    """A [width, rank] of the pair whose B this product is by; None where it is by the head itself."""
    return _factor(head.inputs[0].producer() if head.inputs[0] is not None else None)


def factor_of_table(lookup: ir.Node) -> StoredMatrix | None:
    """A^T [rank, width] of the pair whose B a lookup reads; None where it reads the table of words itself."""
    readers = lookup.outputs[0].consumers()
    return _factor(readers[0]) if len(readers) == 1 else None


def _factor(node: ir.Node | None) -> StoredMatrix | None:
    return stored_matrix(node) if node is not None and node.metadata_props.get(PART) == TABLE else None


def root(value: ir.Value | None) -> ir.Value | None:
    """The value behind a Transpose, Cast or Reshape, numbers before they are dequantised, and tokens before they were
    rolled."""
    producer = value.producer() if value is not None else None
    moved = producer is not None and producer.op_type in _MOVING
    return producer.inputs[0] if producer is not None and moved else value
