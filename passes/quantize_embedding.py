"""Store the table of words in few bits, and with it the head where both are one.

Knows plans and graphs. An exporter may have written a tied table twice; one is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from foldrank.edits.quantize_embedding import QuantizeEmbedding
from foldrank.errors import PassRefused, PlanMismatch
from foldrank.graph.linear.head import factor_of_table, head_of, lookups
from foldrank.graph.linear.linears import StoredMatrix, stored_matrix
from foldrank.graph.view.decoder import View
from foldrank.passes.base import Change, Effect, GraphPass, Receipt, Stage, Work
from foldrank.passes.few_bits import Swap, table_at
from foldrank.passes.numbers import Source

_WAY_OUT = "apply the plan to an export of the checkpoint it was made for, or plan with embedding_bits=none"


def passes(edits: tuple[QuantizeEmbedding, ...], work: Work) -> Iterator[tuple[Stage, GraphPass]]:
    """One."""
    for edit in edits:
        yield Stage.STORAGE, QuantizeTable(edit, Source.of(work, edits), work.source)


@dataclass(frozen=True)
class QuantizeTable(GraphPass):
    """Put what reads rows of few bits in the place of the lookup, and a product by the same numbers in that of a head
    that is tied to it. `source` names the plan's checkpoint in messages."""

    wanted: QuantizeEmbedding
    numbers: Source
    source: str
    name: ClassVar[str] = "quantize"
    effect: ClassVar[Effect] = Effect.APPROXIMATE

    def edit(self, model: ir.Model, view: View | None = None) -> Receipt:
        """Prove the table, and the head where it is to be one with it, then replace. Raises PassRefused,
        PlanMismatch."""
        readers, head = lookups(model.graph), head_of(model.graph)
        if len(readers) != 1:
            raise PassRefused(self.name, [f"embedding: {len(readers)} tables are read by tokens"], _WAY_OUT)
        if (factor := factor_of_table(readers[0])) is not None:
            reason = f"embedding: is a pair of rank {factor.shape[0]}, which stays in floats"
            raise PassRefused(self.name, [reason], "plan with embedding_bits=none")
        self._prove(table_at(readers[0]), "embedding")
        swap = Swap(model, self.numbers, self.name, [self.wanted.storage])
        changes: list[Change] = []
        if self.wanted.head:
            stored = stored_matrix(head) if head is not None else None
            if head is None or stored is None:
                raise PassRefused(self.name, ["head: no MatMul with a float weight makes the logits"], _WAY_OUT)
            self._prove(stored, "head")
            changes.append(swap.replace(head, self.wanted.storage, ()))
            head = head_of(model.graph)
        changes.append(swap.look_up(readers[0], self.wanted.storage, head if self.wanted.head else None))
        return Receipt(self.name, self.effect, tuple(changes))

    def _prove(self, stored: StoredMatrix, where: str) -> None:
        if stored.shape != self.wanted.shape:
            reason = f"{where}: is {list(stored.shape)}, the plan says {list(self.wanted.shape)}"
            raise PassRefused(self.name, [reason], _WAY_OUT)
        if not self.wanted.replaces.matches(stored.read()):
            raise PlanMismatch(where, f"the graph holds another than the plan was made for ({self.source})", _WAY_OUT)
