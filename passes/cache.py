"""The KV cache's names and shapes: common names without gaps, real numbers in place of symbols, nothing else beside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from foldrank.graph.dataflow.cache import echoes, kv_pairs
from foldrank.graph.view.decoder import View
from foldrank.passes.base import Change, Effect, GraphPass, Receipt


@dataclass(frozen=True)
class RenumberCache(GraphPass):
    """Call the pairs past_key_values.0 .. n-1 and present.0 .. n-1, in the order of their blocks, however the exporter
    called them."""

    name: ClassVar[str] = "renumber_cache"
    effect: ClassVar[Effect] = Effect.EXACT

    def edit(self, model: ir.Model, view: View | None = None) -> Receipt:
        """Rename. Ascending order, and numbers only go down, so no name is taken while another still has it."""
        changes = []
        for number, pair in enumerate(kv_pairs(model.graph, self.name)):
            wanted = {f"{prefix}.{number}.{kind}": value
                      for values, prefix in ((pair.past, "past_key_values"), (pair.present, "present"))
                      for value, kind in zip(values, ("key", "value"), strict=True)}
            if all(value.name == name for name, value in wanted.items()):
                continue
            was = str(pair.past[0].name).rpartition(".")[0]
            for name, value in wanted.items():
                value.name = name
            changes.append(Change(was, 0, 0, f"is past_key_values.{number} now"))
        return Receipt(self.name, self.effect, tuple(changes))


@dataclass(frozen=True)
class StateHeadSize(GraphPass):
    """Write KV heads and head size into the cache's shapes: some consumers bind a symbolic last axis to 1."""

    name: ClassVar[str] = "state_head_size"
    effect: ClassVar[Effect] = Effect.EXACT
    keeps_view: ClassVar[bool] = True

    def edit(self, model: ir.Model, view: View | None = None) -> Receipt:
        """Set the axes of heads and head size of every cache input and output that has a symbol there."""
        decoder = (view or View(model)).decoder
        cache = [v for block in decoder.blocks for v in (*block.past, *block.present)]
        named = [v for v in cache if v.shape is not None and len(v.shape) == 4
                 and not (isinstance(v.shape[1], int) and isinstance(v.shape[3], int))]
        for value in named:
            assert value.shape is not None
            batch, _, length, _ = value.shape.dims
            value.shape = ir.Shape([batch, decoder.kv_heads, length, decoder.head_size])
        why = f"has {decoder.kv_heads} heads of {decoder.head_size}"
        return Receipt(self.name, self.effect, tuple(Change(str(v.name), 0, 0, why) for v in named))


@dataclass(frozen=True)
class DropEchoes(GraphPass):
    """Take away inputs that the graph only hands on, and the outputs that repeat them."""

    name: ClassVar[str] = "drop_echoes"
    effect: ClassVar[Effect] = Effect.EXACT

    def edit(self, model: ir.Model, view: View | None = None) -> Receipt:
        """Remove each pair and the Identity between."""
        changes = []
        for value, output in echoes(model.graph):
            node = output.producer()
            assert node is not None
            model.graph.outputs.remove(output)
            model.graph.remove(node, safe=True)
            model.graph.inputs.remove(value)
            changes.append(Change(str(value.name), 0, 0, f"left, with {output.name}, which repeated it"))
        return Receipt(self.name, self.effect, tuple(changes))
