"""Make nodes in the place of others: names, marks, and the type and shape of what they give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from foldrank.graph.linear.linears import StoredMatrix
from foldrank.graph.linear.marks import COLUMNS, MADE_BY, PART, ROLES, SITE

_OF_LINEARS = (SITE, PART, COLUMNS, ROLES)
"""Marks that say what a linear is to its site: no other node carries them."""


@dataclass(frozen=True)
class Maker:
    """Makes nodes of one graph on behalf of the pass `made_by`."""

    graph: ir.Graph
    made_by: str

    def in_place(
        self, old: ir.Node, domain: str, op: str, inputs: Sequence[ir.Value | None], suffix: str,
        marks: Mapping[str, str], attributes: Mapping[str, int] | None = None,
    ) -> ir.Node:
        """A node right before an old one, to give what that gives."""
        whole = old.outputs[0]
        node = self._made(old, domain, op, inputs, suffix, {**old.metadata_props, **marks}, attributes)
        node.outputs[0].type = whole.type
        node.outputs[0].shape = ir.Shape(whole.shape) if whole.shape is not None else None
        return node

    def before(
        self, old: ir.Node, op: str, inputs: Sequence[ir.Value | None], suffix: str, dtype: ir.DataType,
        shape: Sequence[int | ir.SymbolicDim] | None, attributes: Mapping[str, int | Sequence[int]] | None = None,
    ) -> ir.Value:
        """What a standard operator gives that a node in an old one's place needs: of its block, and no linear."""
        kept = {key: text for key, text in old.metadata_props.items() if key not in _OF_LINEARS}
        node = self._made(old, "", op, inputs, suffix, {**kept, MADE_BY: self.made_by}, attributes)
        node.outputs[0].type = ir.TensorType(dtype)
        node.outputs[0].shape = None if shape is None else ir.Shape(shape)
        return node.outputs[0]

    def remove(self, node: ir.Node, matrix: StoredMatrix) -> bool:
        """Take a node away that nothing reads; whether nothing reads its matrix any more, which leaves too then."""
        weight, reader = matrix.weight, matrix.place[0]
        self.graph.remove(node, safe=True)
        if reader is not node and not reader.outputs[0].uses():
            self.graph.remove(reader, safe=True)
        if weight.uses():
            return False
        self.graph.initializers.pop(str(weight.name))
        return True

    def _made(
        self, old: ir.Node, domain: str, op: str, inputs: Sequence[ir.Value | None], suffix: str,
        metadata: dict[str, str], attributes: Mapping[str, int | Sequence[int]] | None,
    ) -> ir.Node:
        name = f"{old.name}{suffix}"
        node = ir.Node(domain, op, inputs, name=name, metadata_props=metadata)
        for key, value in (attributes or {}).items():
            node.attributes[key] = ir.AttrInt64(key, value) if isinstance(value, int) else ir.AttrInt64s(key, value)
        node.outputs[0].name = f"{name}/output_0"
        self.graph.insert_before(old, node)
        return node
