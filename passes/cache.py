"""The KV cache's names and shapes: numbered without gaps, and with the real head size in place of a symbol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from foldrank.graph.cache import kv_pairs
from foldrank.graph.decoder import read_decoder
from foldrank.passes.base import Change, Effect, GraphPass, Receipt


@dataclass(frozen=True)
class RenumberCache(GraphPass):
    """Call the pairs past_key_values.0 .. n-1 and present.0 .. n-1, in the order of their blocks."""

    name: ClassVar[str] = "renumber_cache"
    effect: ClassVar[Effect] = Effect.EXACT

    def edit(self, model: ir.Model) -> Receipt:
        """Rename. Ascending order, and numbers only go down, so no name is taken while another still has it."""
        changes = []
        for number, pair in enumerate(kv_pairs(model.graph, self.name)):
            if pair.number == number:
                continue
            for values, prefix in ((pair.past, "past_key_values"), (pair.present, "present")):
                for value, kind in zip(values, ("key", "value"), strict=True):
                    value.name = f"{prefix}.{number}.{kind}"
            changes.append(Change(f"past_key_values.{pair.number}", 0, 0, f"is past_key_values.{number} now"))
        return Receipt(self.name, self.effect, tuple(changes))


@dataclass(frozen=True)
class StateHeadSize(GraphPass):
    """Write the head size into the KV shapes: some consumers bind a symbolic last axis to 1."""

    name: ClassVar[str] = "state_head_size"
    effect: ClassVar[Effect] = Effect.EXACT

    def edit(self, model: ir.Model) -> Receipt:
        """Set the last axis of every cache input and output that has a symbol there."""
        decoder = read_decoder(model)
        cache = [v for block in decoder.blocks for v in (*block.kv.past, *block.kv.present)]
        named = [v for v in cache if v.shape is not None and len(v.shape) == 4 and not isinstance(v.shape[3], int)]
        for value in named:
            assert value.shape is not None
            value.shape = ir.Shape([*value.shape.dims[:3], decoder.head_size])
        why = f"last axis is {decoder.head_size}"
        return Receipt(self.name, self.effect, tuple(Change(str(v.name), 0, 0, why) for v in named))
