"""Remove what no output needs any more: nodes whose results nothing reads, initializers and constants left behind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from foldrank.graph.view.decoder import View
from foldrank.passes.base import Change, Effect, GraphPass, Receipt


@dataclass(frozen=True)
class CleanUp(GraphPass):
    """Remove dead nodes and initializers. Inputs stay: they are the bundle's contract."""

    name: ClassVar[str] = "clean_up"
    effect: ClassVar[Effect] = Effect.EXACT

    def edit(self, model: ir.Model, view: View | None = None) -> Receipt:
        """Nodes first: initializers may lose their last reader."""
        changes = (*_dead_nodes(model.graph), *_dead_initializers(model.graph))
        return Receipt(self.name, self.effect, changes)


def remove_dead(graph: ir.Graph) -> int:
    """Remove nodes whose results nothing reads; how many."""
    return sum(1 for _ in _dead_nodes(graph))


def _dead_nodes(graph: ir.Graph) -> Iterator[Change]:
    """Walk from the outputs to the inputs, so that one walk finds chains of dead nodes."""
    for node in reversed(graph):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.remove(node, safe=True)
            yield Change(node.name or node.op_type, 0, 0, "nothing reads it")


def _dead_initializers(graph: ir.Graph) -> Iterator[Change]:
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            graph.initializers.pop(name)
            yield Change(name, value.const_value.nbytes if value.const_value is not None else 0, 0, "nothing reads it")
