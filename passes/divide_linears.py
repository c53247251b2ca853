"""Take linears apart that hold weights of both branches, as ort_fusions pack those that read a block's only norm.

    Split(x [Q K V U])  ->  x [Q K V],  x [U]
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

import onnx_ir as ir

from foldrank.edits.base import BRANCHES, Branch
from foldrank.graph.linear.parts import parts_of
from foldrank.graph.view.decoder import Linear, View
from foldrank.passes.base import Change, Effect, GraphPass, Receipt
from foldrank.passes.pieces import DensePiece, Surgery

_OF: dict[str, Branch] = {role: branch for branch, roles in BRANCHES.items() for role in roles}


@dataclass(frozen=True)
class DivideLinears(GraphPass):
    """Of these blocks, so that one branch can leave without the other."""

    blocks: frozenset[int]
    name: ClassVar[str] = "divide_linears"
    effect: ClassVar[Effect] = Effect.EXACT

    def edit(self, model: ir.Model, view: View | None = None) -> Receipt:
        """Refuses nothing: a linear whose result is not simply split stays whole."""
        decoder = (view or View(model)).decoder
        changes = []
        for linear in (li for b in decoder.blocks if b.number in self.blocks for li in b.linears):
            groups = [tuple(roles) for _, roles in groupby(linear.roles, key=_OF.__getitem__)]
            if len(groups) < 2 or (split := _split(linear, len(groups))) is None:
                continue
            pieces, size = [DensePiece.of(linear, roles) for roles in groups], linear.tensor.nbytes
            Surgery(model.graph, self.name).divide(linear, pieces, split)
            changes.append(Change(f"block.{linear.block:02d}", size, size,
                                  f"{', '.join(linear.roles)} are in a weight for each branch now"))
        return Receipt(self.name, self.effect, tuple(changes))


def _split(linear: Linear, count: int) -> ir.Node | None:
    """The node that alone reads the linear's result and parts it in so many."""
    split = next((part.producer() for part in parts_of(linear.node)), None)
    if split is None or split.op_type != "Split" or len(split.outputs) != count:
        return None
    before = [linear.node, *(node for node, _ in linear.biases)]
    parted = split.inputs[0] is before[-1].outputs[0] or split.inputs[0] is linear.node.outputs[0]
    return split if parted and linear.node not in before[1:] else None
