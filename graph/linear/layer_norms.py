"""LayerNorms, in each form in which exporters write them: what they norm, their gain and bias, and what they give.

    x ── LayerNormalization(g, b) ── y             x, z ── SkipLayerNormalization(g, b) ── y, x + z
    x ──┬── Sub ── … ── Div ── Mul(g) ── Add(b) ── y                             taken apart
        └─ ReduceMean ┘
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from foldrank.graph.linear.gains import LAYOUT, Gain, gain_behind, maker_of, readers_of
from foldrank.graph.linear.linears import Place, added_to, initializer_at, is_vector
from foldrank.graph.linear.norms import NORMS


@dataclass(frozen=True)
class LayerNorm:
    """`gain` is not of an RMS norm. `bias`: where a vector is added behind it; None where none is. `result`: what it
    gives. `minus`: where it is taken apart, the Subs that take the mean away; `mean` gives that."""

    gain: Gain
    bias: Place | None
    result: ir.Value
    minus: tuple[ir.Node, ...] = ()
    mean: ir.Node | None = None

    @property
    def node(self) -> ir.Node:
        """Its operator; where it is taken apart, what multiplies by the gain."""
        return self.gain.node

    @property
    def reading(self) -> tuple[ir.Node, ...]:
        """Nodes that read what it norms."""
        return (self.node,) if self.mean is None else (self.mean, *self.minus)


def layer_norm_behind(value: ir.Value | None) -> LayerNorm | None:
    """The LayerNorm that gives a value, whatever its layout; None where none does."""
    node = maker_of(value)
    if node is not None and node.op_type == "Add":
        others = [given for given in node.inputs if not is_vector(given)]
        value = others[0] if len(others) == 1 else None
    gain = gain_behind(value)
    return None if gain is None else layer_norm(gain)


def layer_norm(gain: Gain) -> LayerNorm | None:
    """That of a gain; None where that is of an RMS norm, or the norm is of another form."""
    node = gain.node
    if gain.of_rms or gain.offset or not is_vector(initializer_at(gain.place)):
        return None
    if gain.slot is None:
        slot = NORMS[node.op_type][1]
        bias = node.inputs[slot] if slot < len(node.inputs) else None
        return LayerNorm(gain, (node, slot) if bias is not None else None, node.outputs[0]) \
            if bias is None or is_vector(bias) else None
    minus = gain.minus
    assert minus is not None
    mean = maker_of(minus.inputs[1])
    if mean is None or mean.op_type != "ReduceMean" or _root(mean.inputs[0]) is not _root(minus.inputs[0]):
        return None
    subs = tuple(dict.fromkeys(readers_of(mean.outputs[0])))
    if any(sub.op_type != "Sub" or sub.inputs[0] is not minus.inputs[0] for sub in subs):
        return None
    added = added_to(node.outputs[0])
    if added is not None and added[0].op_type == "Add":
        return LayerNorm(gain, added, added[0].outputs[0], subs, mean)
    return LayerNorm(gain, None, node.outputs[0], subs, mean)


def _root(value: ir.Value | None) -> ir.Value | None:
    """Where the numbers of a value come from, through layouts."""
    while value is not None and (maker := value.producer()) is not None and maker.op_type in LAYOUT:
        value = maker.inputs[0]
    return value
