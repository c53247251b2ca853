"""Take norms apart that an exporter merged with the sum before them, where blocks correspond only so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from foldrank.graph.linear.marks import MADE_BY
from foldrank.graph.view.decoder import View
from foldrank.graph.view.skip_norms import hides_blocks, take_apart
from foldrank.passes.base import Change, Effect, GraphPass, Receipt


@dataclass(frozen=True)
class SplitNorms(GraphPass):
    """Put sums and plain norms in the place of merged norms; leave every graph as it is that is told as well so."""

    name: ClassVar[str] = "split_norms"
    effect: ClassVar[Effect] = Effect.ROUNDING

    def edit(self, model: ir.Model, view: View | None = None) -> Receipt:
        """Refuses nothing: a graph that cannot be read apart either stays as it is."""
        if not hides_blocks(model, view or View(model)):
            return Receipt(self.name, self.effect)
        norms = take_apart(model.graph)
        for norm in norms:
            norm.metadata_props[MADE_BY] = self.name
        reason = "taken apart from the sum before it: blocks are alike only so"
        return Receipt(self.name, self.effect, tuple(Change(str(norm.name), 0, 0, reason) for norm in norms))
