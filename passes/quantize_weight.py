"""Store weights in few bits, a dense weight as well as both factors of a pair.

Knows plans and graphs. Numbers are the plan's own, or those of a quantizer that is handed in: ONNX Runtime's
(`runtime/quantizer.py`), so that this folder needs no runtime. It comes after every other pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from foldrank.digests import WeightDigest
from foldrank.edits.base import Part
from foldrank.edits.quantize_weight import QuantizeWeight
from foldrank.edits.storage import Numbers
from foldrank.errors import PassRefused
from foldrank.graph.linear.marks import PART, sites_of
from foldrank.graph.view.decoder import Decoder, Linear, View
from foldrank.passes.base import Effect, GraphPass, Receipt, Stage, Work
from foldrank.passes.few_bits import Swap, matrix_at
from foldrank.passes.numbers import Source
from foldrank.passes.proof import prove, replaced_digests
from foldrank.sites import Site


def passes(edits: tuple[QuantizeWeight, ...], work: Work) -> Iterator[tuple[Stage, GraphPass]]:
    """One, over all sites."""
    yield Stage.STORAGE, QuantizeLinears(edits, work.written, Source.of(work, edits), work.source)


@dataclass(frozen=True)
class QuantizeLinears(GraphPass):
    """Put products by few bits in the place of what computes the sites. `written`: parts that other edits of the plan
    wrote, whose weights are the plan's own; `source` names its checkpoint in messages."""

    edits: tuple[QuantizeWeight, ...]
    written: frozenset[Part]
    numbers: Source
    source: str
    name: ClassVar[str] = "quantize"
    effect: ClassVar[Effect] = Effect.APPROXIMATE

    def edit(self, model: ir.Model, view: View | None = None) -> Receipt:
        """Prove every weight of the checkpoint, then replace. Raises PassRefused, PlanMismatch."""
        decoder = (view or View(model)).decoder
        by_site = {edit.site: edit for edit in self.edits}
        found = list(_found(by_site, decoder))
        odd = (reason for node, sites in found for reason in self._misfits(node, sites, by_site))
        reasons = [*_missing(by_site, found), *odd] or list(_half_shared(found, by_site))
        if reasons:
            raise PassRefused(self.name, reasons, "apply the plan to an export of the checkpoint it was made for")
        digests = replaced_digests(self.edits, self.written)
        prove(_untouched(decoder, digests), digests, self.source)
        swap = Swap(model, self.numbers, self.name, [edit.storage for edit in self.edits])
        changes = [swap.replace(node, by_site[sites[0]].storage, sites, _held(node, [by_site[site] for site in sites]))
                   for node, sites in found]
        return Receipt(self.name, self.effect, tuple(changes))

    def _misfits(
        self, node: ir.Node, sites: tuple[Site, ...], by_site: dict[Site, QuantizeWeight]
    ) -> Iterator[str]:
        if found := list(_misfits(node, sites, by_site)):
            yield from found
            return
        edits = [by_site[site] for site in sites]
        part = node.metadata_props.get(PART)
        if any(len(edit.held) != (2 if part in ("A", "B") else 1) for edit in edits if edit.held):
            yield f"{node.name}: planned numbers are of {'a weight' if part in ('A', 'B') else 'a pair'}"
        elif part == "A" and len({edit.held[:1] for edit in edits}) > 1:
            yield f"{node.name}: its roles name several A"
        elif held := _held(node, edits):
            yield from self.numbers.misfits(str(sites[0]), matrix_at(node).shape, edits[0].storage, held)


def _held(node: ir.Node, edits: Sequence[QuantizeWeight]) -> tuple[Numbers, ...]:
    """The planned numbers that lie side by side in a node: of A once, of a weight or B role by role."""
    place = 1 if node.metadata_props.get(PART) == "B" else 0
    found = tuple(edit.held[place] for edit in edits if edit.held)
    return found[:1] if node.metadata_props.get(PART) == "A" else found


def _found(by_site: dict[Site, QuantizeWeight], decoder: Decoder) -> Iterator[tuple[ir.Node, tuple[Site, ...]]]:
    """Every node that computes one of the sites, or a part of it, with the single-role sites it computes."""
    for block in decoder.blocks:
        dense = {linear.node: linear.sites for linear in block.linears}
        for node in block.nodes:
            sites = dense.get(node, ())
            if not sites and node.metadata_props.get(PART) in ("A", "B"):
                sites = sites_of(node)
            if by_site.keys() & set(sites):
                yield node, sites


def _half_shared(
    found: list[tuple[ir.Node, tuple[Site, ...]]], by_site: dict[Site, QuantizeWeight]
) -> Iterator[str]:
    """Weights of several roles that two blocks read, of which the plan stores some roles as one and others apart."""
    ways: dict[ir.Value, list[tuple[Site, ...]]] = {}
    for node, sites in found:
        ways.setdefault(matrix_at(node).weight, []).append(sites)
    for one, *others in ways.values():
        for other in others:
            alike = [(by_site[a].storage, by_site[a].held) == (by_site[b].storage, by_site[b].held)
                     for a, b in zip(one, other, strict=True)]
            if any(alike) and not all(alike):
                yield f"{other[0]}: reads one weight with {one[0]}, which the plan stores as one only in part"


def _missing(by_site: dict[Site, QuantizeWeight], found: list[tuple[ir.Node, tuple[Site, ...]]]) -> Iterator[str]:
    there = {site for _, sites in found for site in sites}
    for site in by_site.keys() - there:
        yield f"{site}: no MatMul with a float weight"


def _misfits(node: ir.Node, sites: tuple[Site, ...], by_site: dict[Site, QuantizeWeight]) -> Iterator[str]:
    if rest := [str(site) for site in sites if site not in by_site]:
        yield f"{node.name}: holds {', '.join(rest)} too, which the plan leaves as they are"
    elif len({(by_site[site].storage, bool(by_site[site].held)) for site in sites}) > 1:
        yield f"{node.name}: its roles are to be stored in several ways"
    elif (inputs := {by_site[site].shape[0] for site in sites}) and node.metadata_props.get(PART) != "B":
        rows = matrix_at(node).shape[0]
        if inputs != {rows}:
            yield f"{sites[0]}: reads {rows} inputs, plan says {sorted(inputs)}"


def _untouched(decoder: Decoder, digests: Mapping[Site, WeightDigest]) -> list[Linear]:
    return [linear for block in decoder.blocks for linear in block.linears if set(linear.sites) & digests.keys()]
