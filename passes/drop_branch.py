"""Remove a block's attention or MLP: what its result was added to goes on without it.

    Add(x, branch)        ->  x
    SkipNorm(x, branch)   ->  Norm(x), and where x is the sum of a SkipNorm whose norm fed the branch alone, the two
                              become one: SkipNorm(a, b) then SkipNorm(sum, branch)  ->  SkipNorm(a, b)

Everything that only the branch needed goes with it: its norm, its norm behind, a multiplier; of an attention the KV
pair. What other blocks ask of its cache's length they ask of another's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from foldrank.digests import WeightDigest
from foldrank.edits.base import BRANCHES, Part
from foldrank.edits.drop_branch import DropBranch
from foldrank.errors import PassRefused
from foldrank.graph.dataflow.membership import stream
from foldrank.graph.linear.marks import MADE_BY
from foldrank.graph.view.branches import SUMS, Join, join_of, linears_of, reached
from foldrank.graph.view.decoder import Block, Decoder, Linear, View
from foldrank.graph.view.skip_norms import merge_sum, without_sum
from foldrank.passes.base import Change, Effect, GraphPass, Receipt, Stage, Work
from foldrank.passes.cache_ports import readers_left_behind, take_away
from foldrank.passes.clean_up import remove_dead
from foldrank.passes.divide_linears import DivideLinears
from foldrank.passes.proof import prove, source_digests

_LAYOUT = ("Reshape", "Identity", "Cast")


def passes(edits: tuple[DropBranch, ...], work: Work) -> Iterator[tuple[Stage, GraphPass]]:
    """Weights of two branches apart, so that no later edit of one changes the other; branches leave behind blocks."""
    yield Stage.CONTENT, DivideLinears(frozenset(edit.block for edit in edits))
    yield Stage.REMOVAL, DropBranches(edits, work.weights, work.source, work.edited)


@dataclass(frozen=True)
class DropBranches(GraphPass):
    """Take branches out. `weights`: digests of what `source`, the plan's checkpoint, has at the branches' sites;
    `edited`: parts that earlier edits wrote, which are no longer that."""

    edits: tuple[DropBranch, ...]
    weights: Mapping[str, WeightDigest]
    source: str
    edited: frozenset[Part] = frozenset()
    name: ClassVar[str] = "drop_branch"
    effect: ClassVar[Effect] = Effect.APPROXIMATE

    def edit(self, model: ir.Model, view: View | None = None) -> Receipt:
        """Prove every weight that leaves, then re-wire and remove. Raises PassRefused, PlanMismatch."""
        decoder, graph = (view or View(model)).decoder, model.graph
        flowing = stream(graph, (value for block in decoder.blocks for value in block.past))
        if reasons := [reason for edit in self.edits for reason in self._misfits(edit, graph, decoder, flowing)]:
            raise PassRefused(self.name, reasons, "plan again without dropping these branches")
        self._prove(decoder)
        changes = tuple(_change(edit, decoder.by_number[edit.block]) for edit in self.edits)
        norms = [norm for edit in self.edits if (norm := _bypass(edit, graph, decoder, flowing)) is not None]
        gone = [decoder.by_number[e.block] for e in self.edits if e.branch == "attention"]
        past, present = ([v for block in gone for v in getattr(block, port)] for port in ("past", "present"))
        inside = {node for block in gone for node in block.nodes}
        take_away(graph, past, present, self._staying(decoder), inside)
        remove_dead(graph)
        for norm in norms:
            if norm.graph is graph and (merged := merge_sum(graph, norm)) is not None:
                merged.metadata_props[MADE_BY] = self.name
        return Receipt(self.name, self.effect, changes)

    def _prove(self, decoder: Decoder) -> None:
        """Weights in few bits are proved by nobody: they have no digest in a plan."""
        linears = [li for edit in self.edits for li in _linears(decoder.by_number[edit.block], edit)]
        sites = (site for linear in linears for site in linear.sites)
        lacking = "the plan drops this branch and holds no digest of this weight"
        prove(linears, source_digests(sites, self.weights, self.edited, lacking), self.source)

    def _misfits(
        self, edit: DropBranch, graph: ir.Graph, decoder: Decoder, flowing: set[ir.Node]
    ) -> Iterator[str]:
        """Why the branch cannot leave."""
        block = decoder.by_number.get(edit.block)
        where = f"block {edit.block}, {edit.branch}"
        if block is None:
            yield f"block {edit.block} is not in the graph"
            return
        if mixed := [li for li in _linears(block, edit) if not set(li.roles) <= set(BRANCHES[edit.branch])]:
            yield f"{where}: its weight {mixed[0].weight.name} holds {', '.join(mixed[0].roles)} in one"
            return
        join = join_of(graph, block, edit.branch, flowing)
        if isinstance(join, str):
            yield f"{where}: {join}"
            return
        inside = set(block.nodes)
        made = [value for node in linears_of(block, edit.branch).values() for value in node.outputs]
        inner = reached(made, join.node)
        beside = [node for branch in BRANCHES if branch != edit.branch for node in linears_of(block, branch).values()]
        if shared := [node for node in beside if node in inner]:
            yield f"{where}: {shared[0].name} of its other branch reads what it makes"
        if outside := [node for node in inner if node not in inside]:
            yield f"{where}: {outside[0].name} outside of the block reads what it makes"
        if outputs := [v for node in inner for v in node.outputs if v.is_graph_output() and v not in block.present]:
            yield f"{where}: it makes the output {outputs[0].name}"
        if edit.branch == "attention":
            left = readers_left_behind(block.past, self._staying(decoder), inside)
            if (reader := next(left, None)) is not None:
                yield f"{where}: its cache is read outside the block, by {reader}"
            return
        if DropBranch(edit.block, "attention") in self.edits and not _passes_on(graph, decoder, block, flowing):
            yield f"block {edit.block}: norms what its branches are added to, so without both it is not nothing"

    def _staying(self, decoder: Decoder) -> list[ir.Value]:
        """Cache inputs of the attentions that stay."""
        leaving = {edit.block for edit in self.edits if edit.branch == "attention"}
        return [value for block in decoder.blocks if block.number not in leaving for value in block.past]


def _passes_on(graph: ir.Graph, decoder: Decoder, block: Block, flowing: set[ir.Node]) -> bool:
    """Whether a block without branches hands on what enters it: its last sum leaves it, or is made behind it."""
    leaving = {id(value) for value in decoder.boundaries[decoder.position(block.number) + 1]}
    joins = (join_of(graph, block, branch, flowing) for branch in BRANCHES)
    pending = [join.node for join in joins if isinstance(join, Join)]
    while pending:
        node = pending.pop()
        if node not in block.nodes or any(id(value) in leaving for value in node.outputs):
            return True
        pending += [reader for v in node.outputs for reader in v.consumers() if reader.op_type in (*SUMS, *_LAYOUT)]
    return False


def _linears(block: Block, edit: DropBranch) -> list[Linear]:
    return [linear for linear in block.linears if set(linear.roles) & set(BRANCHES[edit.branch])]


def _bypass(edit: DropBranch, graph: ir.Graph, decoder: Decoder, flowing: set[ir.Node]) -> ir.Node | None:
    """Let readers of the sum read what the branch was added to. Gives the norm that a merged norm became, if one did.
    An edit before may have moved the join, so it is found afresh."""
    join = join_of(graph, decoder.by_number[edit.block], edit.branch, flowing)
    assert isinstance(join, Join)
    if join.node.op_type == "Add":
        join.node.outputs[0].replace_all_uses_with(join.other)
        graph.remove(join.node, safe=True)
        return None
    norm = without_sum(graph, join.node, join.other)
    norm.metadata_props[MADE_BY] = DropBranches.name
    flowing.add(norm)
    return norm


def _change(edit: DropBranch, block: Block) -> Change:
    tensors = {id(value): value.const_value for node in linears_of(block, edit.branch).values()
               for value in node.inputs if value is not None and value.is_initializer()}
    pair = f", with KV pair {block.kv.number}" if edit.branch == "attention" and block.kv is not None else ""
    before = sum(tensor.nbytes for tensor in tensors.values() if tensor is not None)
    return Change(f"block.{edit.block:02d}", before, 0, f"its {edit.branch} left{pair}")

