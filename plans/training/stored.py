"""The matrices a plan stores, and the model they make: what recovery trains and writes back.

Knows edits and blocks. Knows nothing of training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from foldrank.edits import Edit
from foldrank.edits.base import BesideEdit, Part, Phase, WeightEdit
from foldrank.edits.replace_weight import ReplaceWeight
from foldrank.edits.storage import StorageEdit
from foldrank.planfile.plan import Plan
from foldrank.plans.bits.correcting import names_of
from foldrank.plans.bits.holding import nearest_held, site_of
from foldrank.plans.low_rank.factoring import replaced_digests
from foldrank.plans.models.block import Block, Pair
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.models.packing import held_in, unpacked
from foldrank.plans.models.rounding import FewNumbers
from foldrank.plans.simulate import apply_edits
from foldrank.sites import Site

Matrix = Callable[[str], Tensor]
"""What is stored under a name, as it is at the moment."""


@dataclass(frozen=True)
class Stored:
    """A plan over the decoder it was made for. `factors`: array names of every site, [A, B] of a pair or [W] alone; of
    one that reads another block's weight, that one's. `beside`: of the pair that is added to it. `folded`: what the
    edits leave that come before those, and pairs of head and table of words. `biases`: arrays that the plan adds to
    what sites give, which `folded` has too; `ends`: A and B of those pairs, one for both where the names are the same.
    `few`: matrices that are stored in few bits, by the names of the arrays of their scales."""

    source: Decoder
    plan: Plan
    folded: Decoder
    factors: Mapping[Site, tuple[str, ...]]
    biases: Mapping[str, Site] = field(default_factory=dict)
    beside: Mapping[Site, tuple[str, str]] = field(default_factory=dict)
    ends: Mapping[Part, tuple[str, ...]] = field(default_factory=dict)
    few: Mapping[str, FewNumbers] = field(default_factory=dict)
    _held: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, source: Decoder, plan: Plan, *, dense: bool) -> Stored:
        """`dense`: whether sites that the plan leaves as they are, or sliced, count too, each as a W of its own. Pairs
        that make up for rounding do not: they are made anew with it."""
        early = [edit for edit in plan.edits if edit.phase <= Phase.SHARING and not isinstance(edit, WeightEdit)]
        folded = apply_edits(early, source, plan.arrays)
        factors: dict[Site, tuple[str, ...]] = {edit.site: tuple(edit.arrays()) for edit in plan.at_sites}
        if dense:
            covered = {part for site in factors for part in site.parts} | {s for edit in early for s in edit.borrows}
            left = {site: name for edit in early for site, name in edit.leaves.items()}
            for block in folded.blocks:
                alone = [Site(block.number, (role,)) for role in block.roles]
                factors |= {site: (left.get(site, f"{site}.W"),) for site in alone if site not in covered}
        biases = {name: site for edit in early for site, name in edit.adds.items()}
        beside = {edit.site: edit.factors for edit in plan.edits
                  if isinstance(edit, BesideEdit) and edit.factors != names_of(edit.site)}
        ends = {part: names for edit in early for part, names in edit.ends.items()}
        return cls(source, plan, folded, _lent(early, factors), biases, beside, ends)

    @classmethod
    def rounded(cls, source: Decoder, plan: Plan) -> Stored:
        """The plan as the graph computes it: at every site that it stores in few bits stand the numbers, one matrix or
        the two of a pair; what else it changes, head and table of words too, is in `folded`."""
        plan = nearest_held(source, plan)
        factors: dict[Site, tuple[str, ...]] = {}
        few: dict[str, FewNumbers] = {}
        for edit in plan.edits:
            if isinstance(edit, StorageEdit) and (site := site_of(edit)) is not None:
                factors[site] = tuple(numbers.scales for numbers in edit.held)
                few |= dict(zip(factors[site], _unpacked(edit, plan.arrays, source.device), strict=True))
        left = [edit for edit in plan.edits if edit.phase < Phase.WEIGHTS or not edit.touch.writes <= set(factors)]
        return cls(source, plan, apply_edits(left, source, plan.arrays), factors, few=few)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Source numbers of the blocks, from the input on."""
        return tuple(block.number for block in self.folded.blocks)

    @cached_property
    def sites(self) -> Mapping[str, Site]:
        """A site of every stored matrix; the first of those that share one, a lender before those that borrow."""
        return {name: sites[0] for name, sites in self.users.items()}

    @cached_property
    def users(self) -> Mapping[str, Sequence[Site]]:
        """The sites that compute with every stored matrix."""
        found: dict[str, list[Site]] = {}
        for site, names in (*self.factors.items(), *self.beside.items()):
            for name in names:
                found.setdefault(name, []).append(site)
        return found

    def matrix(self, name: str) -> Tensor:
        """What is stored under a name, float32, on the model's device; not to be written to. The plan's own arrays are
        kept, dense weights are widened and few bits multiplied out when they are asked for."""
        if name in self.few:
            return self.few[name].values
        if name in self.plan.arrays:
            if name not in self._held:
                array = np.require(self.plan.arrays[name], requirements="W")  # no copy where the plan is in memory
                self._held[name] = torch.from_numpy(array).to(self.source.device)
            return self._held[name]
        site = self.sites[name]
        return self.folded.block(site.block).weight(site.role).to(torch.float32)

    def matrices(self) -> dict[str, Tensor]:
        """Every stored matrix by name, as copies."""
        return {name: self.matrix(name).clone() for name in self.names()}

    def names(self) -> Iterator[str]:
        """Of every stored matrix, once."""
        return iter(self.sites)

    def around(self, matrix: Matrix) -> Decoder:
        """The compressed model's head and table of words, made of what `matrix` gives; gradients flow through."""
        found = self.folded
        for names in dict.fromkeys(self.ends.values()):
            now = [matrix(name) for name in names]
            if any(one is not self.matrix(name) for one, name in zip(now, names, strict=True)):
                parts = [str(part) for part, held in self.ends.items() if held == names]
                found = found.with_factored(parts, Pair(now[0], now[1]))
        return found

    def blocks(self, matrices: Mapping[str, Tensor]) -> tuple[Block, ...]:
        """The compressed blocks with these arrays, those that are not given as they are stored."""
        def matrix(name: str) -> Tensor:
            return matrices[name] if name in matrices else self.matrix(name)

        return tuple(self.block(number, matrix) for number in self.numbers)

    def block(self, number: int, matrix: Matrix) -> Block:
        """One compressed block, made of what `matrix` gives; gradients flow through."""
        block = self.folded.block(number)
        weights: dict[str, Tensor] = {}
        for site, names in self.factors.items():
            if site.block == number:
                weights |= _columns(block, site, [matrix(name) for name in names])
        for site, names in self.beside.items():
            if site.block == number:
                added = _columns(block, site, [matrix(name) for name in names])
                weights |= {role: weights.get(role, block.weight(role)) + more for role, more in added.items()}
        if weights:
            block = block.with_weights(weights)
        for name, site in self.biases.items():
            if site.block == number and (now := matrix(name)) is not (held := self.matrix(name)):
                block = block.with_bias(site.role, now - held)
        return block

    def written(self, matrices: Mapping[str, Tensor], changed: frozenset[str]) -> Plan:
        """The plan with the `changed` arrays: in the edits that have them or can hold them, those of other sites in
        `replace_weight` edits of their own."""
        arrays = {name: self.plan.arrays[name] for name in self.plan.arrays}
        arrays |= {name: np.ascontiguousarray(matrices[name].detach().cpu().numpy()) for name in changed}
        edits = [edit.holding(changed) for edit in self.plan.edits]
        held = {name for edit in edits for name in edit.arrays()}
        named = {block.number: block for block in self.folded.blocks}
        added: list[Edit] = [
            ReplaceWeight(site, name, replaced_digests(self.source.blocks, named[site.block], site.roles))
            for name, site in self.sites.items() if name in changed - held
        ]
        first = [edit for edit in edits if edit.phase <= Phase.WEIGHTS]
        last = [edit for edit in edits if edit.phase > Phase.WEIGHTS]
        return replace(self.plan, arrays=arrays, document=replace(self.plan.document, edits=(*first, *added, *last)))


def _lent(edits: Sequence[Edit], factors: Mapping[Site, tuple[str, ...]]) -> dict[Site, tuple[str, ...]]:
    """These, and under each site that borrows what stands at the lender's. Raises ValueError where a matrix is lent in
    parts."""
    found = dict(factors)
    for edit in edits:
        borrowers = {lender: site for site, lender in edit.borrows.items()}
        for site, names in list(found.items()):
            parts = [borrowers[part] for part in site.parts if part in borrowers]
            if parts and len(parts) < len(site.parts):
                raise ValueError(f"recovery: block {parts[0].block} reads a part of what stands at {site}; plan the "
                                 "roles apart, or do not recover")
            if parts:
                found[Site(parts[0].block, site.roles)] = names
    return found


def _columns(block: Block, site: Site, matrices: Sequence[Tensor]) -> dict[str, Tensor]:
    """W, or A B, by role."""
    first, *rest = matrices
    whole = first @ rest[0] if rest else first
    widths = [block.weight(role).shape[1] for role in site.roles] if site.roles[1:] else whole.shape[1]
    return dict(zip(site.roles, whole.split(widths, dim=1), strict=True))


def _unpacked(edit: StorageEdit, arrays: Mapping[str, np.ndarray], device: torch.device) -> list[FewNumbers]:
    """The edit's matrices: the weight, or A [in, rank] and B [rank, out]."""
    packed = [held_in(arrays, numbers) for numbers in edit.held]
    rows = [edit.shape[0], *(len(one.scales) for one in packed[:-1])]
    return [unpacked(one, edit.storage, count).to(device) for one, count in zip(packed, rows, strict=True)]
