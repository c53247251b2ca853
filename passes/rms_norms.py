"""RMS norms in the place of LayerNorms, in whichever form those are, and the mean taken off a value.

    LayerNormalization(x, g, b)         ->  x / Sqrt(ReduceMean(Pow(x, 2)) + epsilon) * g, in ONNX's own operators, of
                                            which ONNX Runtime makes one SimplifiedLayerNormalization when it loads
    SkipLayerNormalization(x, z, g, b)  ->  SkipSimplifiedLayerNormalization(x, z, g)
    taken apart                         ->  the same without its Sub
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from foldrank.graph.linear.layer_norms import LayerNorm
from foldrank.graph.linear.linears import initializer_at, tensor_at
from foldrank.graph.linear.marks import CENTRE, MADE_BY, PART
from foldrank.graph.linear.weights import add_initializer
from foldrank.graph.view.skip_norms import BIAS

_EPSILON = 1e-5
"""Where LayerNormalization names none."""
_AXES_ARE_READ = 18
"""Opset from which ReduceMean reads its axes."""


@dataclass(frozen=True)
class RmsNorms:
    """Writes them to a graph. Numbers that all of them read are made once."""

    graph: ir.Graph
    made_by: str
    _numbers: dict[str, ir.Value] = field(default_factory=dict)

    def put(self, norm: LayerNorm, *, keep_bias: bool = False) -> None:
        """What read the norm reads an RMS norm, with its bias added where that is to be kept."""
        node, uses = norm.node, list(norm.result.uses())
        node.metadata_props[MADE_BY] = self.made_by
        bias = None if norm.bias is None or not keep_bias else initializer_at(norm.bias)
        if norm.mean is not None:
            for sub in norm.minus:
                value = sub.inputs[0]
                assert value is not None
                sub.outputs[0].replace_all_uses_with(value)
            given = norm.result if keep_bias else node.outputs[0]
        else:
            given = self._merged(node) if node.op_type in BIAS else self._apart(norm)
            if bias is not None:
                given = self._node("Add", f"{_name(node)}/bias", node.metadata_props, [given, bias], given, after=given)
        for use in uses if given is not norm.result else ():
            use.node.replace_input_with(use.idx, given)

    def without_mean(self, value: ir.Value) -> ir.Value:
        """The value less its mean, made right behind it."""
        mean = self._mean(value, f"/{CENTRE}/mean", {}, after=value)
        return self._node("Sub", f"/{CENTRE}/less", {PART: CENTRE}, [value, mean], value, after=mean)

    def sum_before(self, merged: ir.Node) -> ir.Value:
        """The sum of the two values that a merged norm adds, in front of it."""
        one, other = merged.inputs[:2]
        assert one is not None
        assert other is not None
        return self._node("Add", f"/{CENTRE}/sum", {}, [one, other], merged.outputs[0], before=merged)

    def _merged(self, node: ir.Node) -> ir.Value:
        """In place, so that its other outputs stay: they are the same sum."""
        kept = [*node.inputs[:3], *node.inputs[BIAS[node.op_type] :]]
        node.resize_inputs(len(kept))
        for slot, value in enumerate(kept):
            node.replace_input_with(slot, value)
        node.op_type = "SkipSimplifiedLayerNormalization"
        return node.outputs[0]

    def _apart(self, norm: LayerNorm) -> ir.Value:
        """In front of the operator, which is dead then. It computes in float32, as the operator does."""
        node, dtype, single = norm.node, tensor_at(norm.gain.place).dtype, ir.DataType.FLOAT
        value = node.inputs[0]
        assert value is not None

        def made(op: str, label: str, inputs: Sequence[ir.Value], like: ir.Value, *attributes: ir.Attr) -> ir.Value:
            marks = node.metadata_props
            return self._node(op, f"{_name(node)}/{label}", marks, inputs, like, *attributes, before=node)

        if dtype != single:
            value = made("Cast", "widened", [value], value, ir.AttrInt64("to", single.value))
            value.type = ir.TensorType(single)
        square = made("Pow", "square", [value, self._number("two", np.float32(2))], value)
        mean = self._mean(square, f"{_name(node)}/mean", node.metadata_props, before=node)
        epsilon = np.float32(node.attributes.get_float("epsilon", _EPSILON))
        added = made("Add", "epsilon", [mean, self._number(f"epsilon.{epsilon}", epsilon)], mean)
        root = made("Sqrt", "root", [added], mean)
        normed = made("Div", "normed", [value, root], value)
        if dtype != single:
            normed = made("Cast", "narrowed", [normed], norm.result, ir.AttrInt64("to", dtype.value))
        return made("Mul", "gain", [normed, initializer_at(norm.gain.place)], norm.result)

    def _mean(self, value: ir.Value, name: str, marks: Mapping[str, str], *, before: ir.Node | None = None,
              after: ir.Value | None = None) -> ir.Value:
        """Over the last axis, which stays."""
        inputs, own = [value], [ir.AttrInt64s("axes", [-1])]
        if (self.graph.opset_imports.get("") or 0) >= _AXES_ARE_READ:
            inputs, own = [value, self._number("axes", np.array([-1]))], []
        found = self._node("ReduceMean", name, marks, inputs, value, *own, before=before, after=after)
        found.shape = None if value.shape is None else ir.Shape([*value.shape.dims[:-1], 1])
        return found

    def _number(self, name: str, value: np.generic | np.ndarray[Any, Any]) -> ir.Value:
        if name not in self._numbers:
            self._numbers[name] = add_initializer(self.graph, f"{self.made_by}.{name}", ir.tensor(np.asarray(value)))
        return self._numbers[name]

    def _node(
        self, op: str, name: str, marks: Mapping[str, str], inputs: Sequence[ir.Value], like: ir.Value,
        *attributes: ir.Attr, before: ir.Node | None = None, after: ir.Value | None = None,
    ) -> ir.Value:
        """What a node gives, in front of a node or right behind what makes a value. `marks`: of the norm in whose place
        it stands, so that it belongs to that one's block."""
        node = ir.Node("", op, inputs, attributes, name=name, metadata_props={**marks, MADE_BY: self.made_by})
        made, maker = node.outputs[0], after.producer() if after is not None else None
        made.name, made.type = f"{name}/output_0", like.type
        made.shape = None if like.shape is None else ir.Shape(like.shape)
        if before is not None:
            self.graph.insert_before(before, node)
        elif maker is not None:
            self.graph.insert_after(maker, node)
        return made


def _name(norm: ir.Node) -> str:
    return norm.name or str(norm.outputs[0].name)
