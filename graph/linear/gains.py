"""The gain of a norm: where it is read, what is added to it, and what multiplies by it.

    x ── SimplifiedLayerNormalization(gain) ── y          x ── … ── n ── Mul ── y      taken apart; perhaps gain + 1
                                                           gain (── Cast, Add) ──┘
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from foldrank.graph.linear.linears import Place, initializer_at, is_vector, tensor_at
from foldrank.graph.linear.marks import CENTRE, PART
from foldrank.graph.linear.norms import NORMS, norm_parameters
from foldrank.graph.linear.weights import Array, read

LAYOUT = ("Cast", "Reshape", "Identity")
"""Operators that leave the numbers as they are."""

_STEPS = 3


@dataclass(frozen=True)
class Gain:
    """`place` reads the gain; `node` gives what is normed times `offset` plus the gain: a norm's operator, or the Mul
    of a norm taken apart, which reads the gain at `slot`."""

    place: Place
    offset: float
    node: ir.Node
    slot: int | None

    @property
    def values(self) -> Array:
        """What multiplies, float64."""
        return read(tensor_at(self.place)).astype(np.float64) + self.offset

    @property
    def nothing(self) -> float:
        """The gain that changes nothing."""
        return 1.0 - self.offset

    @property
    def width(self) -> int:
        """How many channels."""
        return tensor_at(self.place).size

    @property
    def of_rms(self) -> bool:
        """Whether the norm takes no mean away."""
        if self.slot is None:
            return "Simplified" in self.node.op_type or self.node.op_type == "RMSNormalization"
        return maker_of(self.node.inputs[1 - self.slot]) is not None and self.minus is None

    @property
    def minus(self) -> ir.Node | None:
        """The Sub that takes the mean away in a norm taken apart."""
        normed = maker_of(self.node.inputs[1 - self.slot]) if self.slot is not None else None
        makers = [maker_of(value) for value in normed.inputs] if normed is not None else []
        return next((maker for maker in makers if maker is not None and maker.op_type == "Sub"
                     and maker.metadata_props.get(PART) != CENTRE), None)


def gain_behind(value: ir.Value | None) -> Gain | None:
    """The gain by which a value was multiplied last, as norms do; None where it comes from no norm."""
    node = maker_of(value)
    if node is None or node.op_type not in ("Mul", *NORMS):
        return None
    if node.op_type in NORMS:
        parameter = node, NORMS[node.op_type][0]
        return gain_at(parameter) if parameter in norm_parameters([node]) else None
    places = (_first_reader((node, slot)) for slot in range(len(node.inputs)))
    return next((gain_at(place) for place in places
                 if place is not None and place in norm_parameters([place[0]])), None)


def gain_at(place: Place) -> Gain | None:
    """That of a place which reads a norm's parameter; None where what is added to it cannot be read."""
    node, slot = place
    if node.op_type in NORMS:
        return Gain(place, 0.0, node, None)
    offset = 0.0
    for _ in range(_STEPS):
        if node.op_type == "Mul":
            return Gain(place, offset, node, slot)
        if node.op_type == "Add":
            added = node.inputs[1 - slot]
            tensor = ir.convenience.get_const_tensor(added) if added is not None else None
            if tensor is None or tensor.size != 1:
                return None
            offset += float(tensor.numpy().reshape(()))
        uses = list(node.outputs[0].uses())
        if len(uses) != 1:
            return None
        node, slot = uses[0].node, uses[0].idx
    return None


def readers_of(value: ir.Value) -> list[ir.Node]:
    """Nodes that read the numbers of a value, whatever layout it is brought to first."""
    found: list[ir.Node] = []
    for node in value.consumers():
        if node.op_type in LAYOUT and node.inputs[0] is value:
            found += readers_of(node.outputs[0])
        elif node.op_type not in ("Shape", "Size"):
            found.append(node)
    return found


def maker_of(value: ir.Value | None) -> ir.Node | None:
    """What makes the numbers of a value, whatever their layout."""
    node = value.producer() if value is not None else None
    while node is not None and node.op_type in LAYOUT:
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return node


def _first_reader(place: Place) -> Place | None:
    """Where the initializer is read that a place is given, through casts and sums."""
    for _ in range(_STEPS):
        node, slot = place
        value = node.inputs[slot]
        if is_vector(value):
            return place
        maker = value.producer() if value is not None else None
        if maker is None or maker.op_type not in ("Cast", "Add"):
            return None
        own = next((i for i, given in enumerate(maker.inputs) if is_vector(given) and initializer_at((maker, i))), 0)
        place = (maker, own)
    return None
