"""Set right what an exporter declared wrongly of its own constants and initializers.

The genai builder says [] of a constant of shape [1]; so do transformers' ort_fusions of an initializer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from foldrank.graph.view.decoder import View
from foldrank.passes.base import Change, Effect, GraphPass, Receipt


@dataclass(frozen=True)
class SetDeclarations(GraphPass):
    """Give constants and initializers the shape and dtype that their data has."""

    name: ClassVar[str] = "set_declarations"
    effect: ClassVar[Effect] = Effect.EXACT
    keeps_view: ClassVar[bool] = True

    def edit(self, model: ir.Model, view: View | None = None) -> Receipt:
        """Compare each with its data."""
        return Receipt(self.name, self.effect, (*_constants(model.graph), *_initializers(model.graph)))


def _constants(graph: ir.Graph) -> Iterator[Change]:
    for node in graph:
        attribute = node.attributes.get("value") if node.op_type == "Constant" else None
        if attribute is not None and attribute.type == ir.AttributeType.TENSOR:
            yield from _declare(node.outputs[0], attribute.as_tensor())


def _initializers(graph: ir.Graph) -> Iterator[Change]:
    for value in graph.initializers.values():
        if value.const_value is not None:
            yield from _declare(value, value.const_value)


def _declare(value: ir.Value, tensor: ir.TensorProtocol) -> Iterator[Change]:
    if value.shape is not None and tuple(value.shape) != tuple(tensor.shape):
        reason = f"is {list(tensor.shape)}, was declared {list(value.shape)}"
        value.shape = ir.Shape(tensor.shape.numpy())
        yield Change(str(value.name), 0, 0, reason)
    if value.dtype is not None and value.dtype != tensor.dtype:
        reason = f"is {tensor.dtype}, was declared {value.dtype}"
        value.type = ir.TensorType(tensor.dtype)
        yield Change(str(value.name), 0, 0, reason)
