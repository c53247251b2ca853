"""Remove what no output needs any more: nodes whose results nothing reads, initializers and constants left behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from foldrank.passes.base import Change, Effect, GraphPass, Receipt


@dataclass(frozen=True)
class CleanUp(GraphPass):
    """Remove dead nodes and initializers. Inputs stay: they are the bundle's contract."""

    name: ClassVar[str] = "clean_up"
    effect: ClassVar[Effect] = Effect.EXACT

    def edit(self, model: ir.Model) -> Receipt:
        """Walk from the outputs to the inputs, so one walk finds chains of dead nodes."""
        graph = model.graph
        changes = []
        for node in reversed(graph):
            if not any(value.uses() or value.is_graph_output() for value in node.outputs):
                changes.append(Change(node.name or node.op_type, 0, 0, "nothing reads it"))
                graph.remove(node, safe=True)
        for name, value in list(graph.initializers.items()):
            if not value.uses() and not value.is_graph_output():
                size = value.const_value.nbytes if value.const_value is not None else 0
                changes.append(Change(name, size, 0, "nothing reads it"))
                graph.initializers.pop(name)
        return Receipt(self.name, self.effect, tuple(changes))
