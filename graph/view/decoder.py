"""The decoder view of an ONNX graph: blocks, linears by role, norm gains, KV pairs, and what crosses between blocks.

A block is whatever has a number of its own, by the exporter's names or a pass's metadata, and linears or a KV pair:
one that lost its attention has no pair. Numbers are source numbers; the order of blocks is that of the stream. A view
is read afresh after every change of the graph; it holds the graph's own nodes and values.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cached_property, partial

import onnx_ir as ir

from foldrank.edits.base import BRANCHES
from foldrank.errors import GraphNotRecognized
from foldrank.graph.dataflow.boundaries import crossing_values
from foldrank.graph.dataflow.cache import KVPair, kv_pairs
from foldrank.graph.dataflow.membership import members, stream
from foldrank.graph.dialects import DIALECTS, Dialect, unnamed
from foldrank.graph.dialects.modules import mixes_experts
from foldrank.graph.linear.head import head_of, lookups, root
from foldrank.graph.linear.linears import Linear, Pair
from foldrank.graph.linear.marks import PART, ROTATION, block_of
from foldrank.graph.linear.matrices import few_bits, stored_as
from foldrank.graph.linear.tables import table_of
from foldrank.graph.view.blocks import Block, branches_in, read_block
from foldrank.graph.view.geometry import geometry

__all__ = ["Block", "Decoder", "KVPair", "Linear", "Pair", "View", "read_decoder"]


@dataclass(frozen=True)
class Decoder:
    """What passes edit. `boundaries[i]` are the values that enter the block at place i; the last leave the stack. They
    correspond where blocks are `whole`: where none lacks a branch."""

    dialect: str
    blocks: tuple[Block, ...]
    boundaries: tuple[tuple[ir.Value, ...], ...]
    whole: bool
    heads: int
    kv_heads: int
    head_size: int
    head: ir.Node | None
    lookups: tuple[ir.Node, ...]
    """What reads rows of the table of words."""
    tied: bool
    parameters: int
    rotations: tuple[ir.Node, ...] = ()
    """What turns the stream, in the order of the graph."""

    @cached_property
    def inside(self) -> frozenset[ir.Node]:
        """Nodes of all blocks."""
        return frozenset(node for block in self.blocks for node in block.nodes)

    @cached_property
    def by_number(self) -> dict[int, Block]:
        """Blocks by source number."""
        return {block.number: block for block in self.blocks}

    def position(self, number: int) -> int:
        """Place of a block in the stack, counted from the input."""
        return next(i for i, block in enumerate(self.blocks) if block.number == number)


class View:
    """The decoder view of a model, read when first asked for. Worth nothing after a change of the model."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model

    @cached_property
    def decoder(self) -> Decoder:
        """Raises GraphNotRecognized."""
        return read_decoder(self._model)


def read_decoder(model: ir.Model) -> Decoder:
    """Find the decoder in a graph. Raises GraphNotRecognized, saying what differs from one."""
    where = model.graph.name or "graph"
    if mixing := next((node for node in model.graph if mixes_experts(node)), None):
        raise GraphNotRecognized(where, f"is a mixture of experts ({mixing.name or mixing.op_type})",
                                 "give a dense model: mixtures are not supported in this version")
    dialect = _dialect(model, where)
    pairs = kv_pairs(model.graph, where)
    flowing = stream(model.graph, (value for pair in pairs for value in pair.past))
    membership = members(model.graph, partial(_block_number, dialect), flowing)
    owners = [_owner(pair, membership, flowing, where) for pair in pairs]
    if len(set(owners)) != len(owners):
        raise GraphNotRecognized(where, f"several KV pairs belong to one block: {owners}", "export it again")
    cached = dict(zip(owners, pairs, strict=True))
    nodes = _in_order(model.graph, membership, flowing)
    branches = {number: branches_in(own, dialect) for number, own in nodes.items()}
    nodes = {number: own for number, own in nodes.items() if branches[number] or number in cached}
    if (stacked := [number for number in nodes if number in cached]) != owners:
        raise GraphNotRecognized(where, f"KV pairs are numbered in another order than blocks stand: {stacked}",
                                 "export it again")
    widths = [geometry(nodes[number], pair, dialect, where) for number, pair in cached.items()]
    if len(set(widths)) != 1:
        raise GraphNotRecognized(where, f"blocks differ in (heads, KV heads, head size): {sorted(set(widths))}",
                                 "such models are not supported")
    whole = all(len(branches[number]) == len(BRANCHES) for number in nodes)
    boundaries = crossing_values(model.graph, list(nodes.items()), flowing, where, whole=whole)
    blocks = tuple(
        read_block(number, own, cached.get(number), widths[0], dialect, (boundaries[i], boundaries[i + 1]))
        for i, (number, own) in enumerate(nodes.items())
    )
    heads, kv_heads, head_size = widths[0]
    return Decoder(
        dialect.name, blocks, boundaries, whole, heads, kv_heads, head_size, head_of(model.graph),
        tuple(lookups(model.graph)), _tied(model.graph), _count(model, dialect),
        tuple(node for node in model.graph if node.metadata_props.get(PART) == ROTATION),
    )


def _dialect(model: ir.Model, where: str) -> Dialect:
    for path in DIALECTS:
        module, name = path.split(":")
        dialect: Dialect = getattr(importlib.import_module(module), name)
        if dialect.recognizes(model):
            return dialect
    return unnamed.survey(model, where)


def _block_number(dialect: Dialect, node: ir.Node) -> int | None:
    marked = block_of(node)
    return marked if marked is not None else dialect.block_of(node)


def _in_order(graph: ir.Graph, membership: dict[ir.Node, int], flowing: set[ir.Node]) -> dict[int, list[ir.Node]]:
    """Nodes of each number, in the order of the stack: what leaves a block depends on what leaves those before, so it
    is made later."""
    found: dict[int, list[ir.Node]] = {}
    made_last: dict[int, int] = {}
    for place, node in enumerate(graph):
        if (number := membership.get(node)) is None:
            continue
        found.setdefault(number, []).append(node)
        if node in flowing and any(
            reader in flowing and membership.get(reader) != number for v in node.outputs for reader in v.consumers()
        ):
            made_last[number] = place
    return {number: found[number] for number in sorted(found, key=lambda number: made_last.get(number, -1))}


def _owner(pair: KVPair, membership: dict[ir.Node, int], flowing: set[ir.Node], where: str) -> int:
    """The block that reads the past and makes the present. Others may ask the past's length."""
    touching = [*pair.past[0].consumers(), *pair.past[1].consumers()]
    touching += [node for value in pair.present if (node := value.producer()) is not None]
    numbers = {number for node in touching
               if node in flowing and (number := membership.get(node)) is not None}
    if len(numbers) == 1:
        return numbers.pop()
    raise GraphNotRecognized(where, f"KV pair {pair.number} is not read and made within one block",
                             "export with `foldrank export`")


def _tied(graph: ir.Graph) -> bool:
    """Whether the matrix that makes the logits is also the embedding table."""
    tables = {root(node.inputs[0]) for node in lookups(graph)}
    head = head_of(graph)
    return head is not None and any(root(value) in tables for value in head.inputs[1:2])


def _count(model: ir.Model, dialect: Dialect) -> int:
    """Weights and biases; of one stored in few bits the numbers it stands for, its scales are none."""
    stored: dict[ir.Value, int] = {}
    scales: set[ir.Value] = set()
    for node in model.graph:
        if (matrix := few_bits(node)) is not None and (parts := stored_as(node)) is not None:
            stored[parts[0]] = matrix.numbers
            scales |= set(parts[1])
    for node in lookups(model.graph):
        if (table := table_of(node)) is not None:
            stored[table.numbers] = table.width * table.words
            scales |= set(table.parts)
    tensors = (v.const_value for name, v in model.graph.initializers.items()
               if not dialect.is_buffer(name) and v not in scales and v not in stored)
    floats = sum(tensor.size for tensor in tensors if tensor is not None and tensor.dtype.is_floating_point())
    return floats + sum(stored.values())
