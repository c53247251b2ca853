"""Two graphs are one decoder to every edit: the same blocks of the same nodes, the same sites with the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir

from foldrank.graph.safe.load import load_model
from foldrank.graph.view.decoder import Decoder, read_decoder


def view(decoder: Decoder) -> list[tuple[Any, ...]]:
    """What edits rely on: numbers, sites with their columns and shapes, how much else there is, what crosses."""
    return [
        (block.number, len(block.nodes), len(block.norms), len(block.others), block.opaque, block.kv.number,
         [(li.roles, li.widths, li.shape, li.transposed, len(li.biases)) for li in block.linears],
         [value.producer().op_type for value in values])
        for block, values in zip(decoder.blocks, decoder.boundaries, strict=False)
    ]


def facts(decoder: Decoder) -> tuple[Any, ...]:
    return (decoder.heads, decoder.kv_heads, decoder.head_size, decoder.tied,
            [decoder.blocks[0].kind == block.kind for block in decoder.blocks], len(decoder.boundaries[-1]))


def digests(model: ir.Model, decoder: Decoder) -> list[bytes]:
    return [linear.tensor.tobytes() for block in decoder.blocks for linear in block.linears]


def same_view(named: Path, unnamed: Path) -> None:
    """The same blocks of the same nodes, the same sites with the same weights."""
    models = [load_model(path) for path in (named, unnamed)]
    one, other = map(read_decoder, models)
    assert other.dialect == "unnamed" != one.dialect
    assert view(other) == view(one)
    assert facts(other) == facts(one), (facts(other), facts(one))
    angles = one.parameters - other.parameters  # names miss the frequencies of rotation where a tool renamed them
    assert angles in (0, one.head_size // 2)
    assert digests(models[1], other) == digests(models[0], one)
    order = [{node: i for i, node in enumerate(model.graph)} for model in models]
    for a, b in zip(one.blocks, other.blocks, strict=True):
        assert [order[0][node] for node in a.nodes] == [order[1][node] for node in b.nodes]
