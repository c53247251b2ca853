"""Write down what dataflow told of a graph without names: each node's block, each linear's roles, a name for each node.

Once a block holds a low-rank pair its like is not found again, and what passes make is named after nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import ClassVar

import onnx_ir as ir

from foldrank.graph.dialects import unnamed
from foldrank.graph.linear.marks import BLOCK, ROLES
from foldrank.graph.view.decoder import Decoder, View
from foldrank.passes.base import Change, Effect, GraphPass, Receipt


@dataclass(frozen=True)
class MarkBlocks(GraphPass):
    """Mark and name the nodes of a graph that no exporter's names explain; leave every other graph as it is."""

    name: ClassVar[str] = "mark_blocks"
    effect: ClassVar[Effect] = Effect.EXACT

    def edit(self, model: ir.Model, view: View | None = None) -> Receipt:
        """Nodes that have a name keep it. Raises GraphNotRecognized."""
        decoder = (view or View(model)).decoder
        if decoder.dialect != unnamed.NAME or unnamed.is_marked(model.graph):
            return Receipt(self.name, self.effect)
        dialect = unnamed.survey(model, self.name)
        roles = {node: found for node in model.graph if (found := dialect.roles_of(node))}
        for block in decoder.blocks:
            for node in block.nodes:
                node.metadata_props[BLOCK] = str(block.number)
        for node, found in roles.items():
            node.metadata_props[ROLES] = ",".join(found)
        _name_nodes(model.graph)
        return Receipt(self.name, self.effect, tuple(_changes(decoder)))


def _name_nodes(graph: ir.Graph) -> None:
    taken = {node.name for node in graph if node.name}
    for node in graph:
        if not node.name:
            block = node.metadata_props.get(BLOCK)
            what = node.metadata_props.get(ROLES, node.op_type).replace(",", "_")
            base = f"block.{int(block):02d}/{what}" if block is not None else what
            node.name = next(name for name in _numbered(base) if name not in taken)
            taken.add(node.name)


def _numbered(base: str) -> Iterator[str]:
    yield base
    yield from (f"{base}_{number}" for number in count(1))


def _changes(decoder: Decoder) -> Iterator[Change]:
    for block in decoder.blocks:
        roles = ", ".join(role for linear in block.linears for role in linear.roles)
        yield Change(f"block.{block.number:02d}", 0, 0, f"found by dataflow: {len(block.nodes)} nodes, {roles}")
