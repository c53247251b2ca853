"""Store the matrix that makes the logits in few bits; an embedding that it was tied to stays as it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from foldrank.edits.quantize_head import QuantizeHead
from foldrank.errors import PassRefused, PlanMismatch
from foldrank.graph.linear.head import factor_of_head, head_of
from foldrank.graph.linear.linears import stored_matrix
from foldrank.graph.view.decoder import View
from foldrank.passes.base import Effect, GraphPass, Receipt, Stage, Work
from foldrank.passes.few_bits import Swap
from foldrank.passes.numbers import Source


def passes(edits: tuple[QuantizeHead, ...], work: Work) -> Iterator[tuple[Stage, GraphPass]]:
    """One."""
    for edit in edits:
        yield Stage.STORAGE, QuantizeLogits(edit, Source.of(work, edits), work.source)


@dataclass(frozen=True)
class QuantizeLogits(GraphPass):
    """Put a product by few bits in the place of the head. `source` names the plan's checkpoint in messages."""

    wanted: QuantizeHead
    numbers: Source
    source: str
    name: ClassVar[str] = "quantize"
    effect: ClassVar[Effect] = Effect.APPROXIMATE

    def edit(self, model: ir.Model, view: View | None = None) -> Receipt:
        """Prove its weight, then replace. Raises PassRefused, PlanMismatch."""
        head = head_of(model.graph)
        if head is not None and (factor := factor_of_head(head)) is not None:
            reason = f"head: is a pair of rank {factor.shape[1]}, which stays in floats"
            raise PassRefused(self.name, [reason], "plan with head_bits=none")
        stored = stored_matrix(head) if head is not None else None
        if head is None or stored is None or stored.shape != self.wanted.shape:
            reason = f"head: no MatMul with a float weight {self.wanted.shape} makes the logits"
            raise PassRefused(self.name, [reason], "apply the plan to an export of the checkpoint it was made for")
        if not self.wanted.replaces.matches(stored.read()):
            raise PlanMismatch("head", f"the graph holds another than the plan was made for ({self.source})",
                               "apply the plan to a dense export of that checkpoint, or plan again")
        swap = Swap(model, self.numbers, self.name, [self.wanted.storage])
        change = swap.replace(head, self.wanted.storage, (), self.wanted.held)
        return Receipt(self.name, self.effect, (change,))
