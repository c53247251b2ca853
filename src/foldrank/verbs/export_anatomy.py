"""Whether a dense graph is made of what the checkpoint is made of, asked before any number is: no torch, no run.

Both are read apart, the graph by dataflow and names of nodes, the checkpoint by config.json and headers. Compared is
what both tell: what an exporter may choose (how numbers are stored, equal ones once; a head of its own; a cache that
repeats heads) is not.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import onnx_ir as ir

from foldrank.edits.anatomy import Anatomy, BlockAnatomy
from foldrank.errors import GraphNotRecognized
from foldrank.graph.anatomy import read_anatomy
from foldrank.graph.dialects.modules import LINEAR_OPERATORS
from foldrank.graph.linear.linears import stored_parts
from foldrank.graph.view.decoder import Block
from foldrank.graph.view.skip_norms import read_apart
from foldrank.model.anatomy import checkpoint_anatomy
from foldrank.model.checkpoint import Checkpoint


def misfits(model: ir.Model, checkpoint: Checkpoint) -> list[str]:
    """How the graph's decoder differs from the checkpoint's, `this against that`. None where the graph's blocks cannot
    be told. Raises SourceError where config.json does not tell heads."""
    try:
        decoder = read_apart(model)
    except GraphNotRecognized:
        return []
    source = checkpoint_anatomy(checkpoint)
    untold = {block.number for block in decoder.blocks if _has_untold(block)}
    return list(as_exported(read_anatomy(decoder), source, untold).differences(source))


def as_exported(graph: Anatomy, source: Anatomy, untold: Collection[int] = ()) -> Anatomy:
    """The graph's anatomy where it and the source both tell, and the source's where one of them does not. `untold`:
    blocks of the graph with linears of no known role."""
    blocks = tuple(
        _as_exported(block, source.by_number[block.number], untold=block.number in untold)
        if block.number in source.by_number else block for block in graph.blocks
    )
    repeats = graph.kv_heads % source.kv_heads == 0 and graph.heads % graph.kv_heads == 0
    head = source.head if graph.head is None or source.head is None else replace(graph.head, few_bits=None)
    return replace(graph, blocks=blocks, head=head, tied=graph.tied or source.tied,
                   kv_heads=source.kv_heads if repeats else graph.kv_heads)


def _as_exported(block: BlockAnatomy, source: BlockAnatomy, *, untold: bool) -> BlockAnatomy:
    held = {role: replace(matrix, few_bits=None, stored=None) for role, matrix in block.matrices.items()
            if role not in source.unread}
    there = {role: matrix for role, matrix in source.matrices.items()
             if role not in held and (untold or role in block.unread)}
    return replace(block, matrices=held | there, unread=source.unread)


def _has_untold(block: Block) -> bool:
    """Whether a linear of the block has no role by names or flow, or is of no form that is read."""
    told = {linear.node for linear in block.linears} | {few.node for few in block.few_bits}
    return any(node.op_type in LINEAR_OPERATORS and node not in told and stored_parts(node) for node in block.nodes)
