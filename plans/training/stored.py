"""The matrices a plan stores, and the model they make: what recovery trains and writes back.

Knows edits and blocks. Knows nothing of training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from foldrank.edits import Edit
from foldrank.edits.base import Phase
from foldrank.edits.replace_weight import ReplaceWeight
from foldrank.planfile.plan import Plan
from foldrank.plans.low_rank.factoring import replaced_digests
from foldrank.plans.models.block import Block
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.simulate import apply_edits
from foldrank.sites import Site


@dataclass(frozen=True)
class Stored:
    """A plan over the decoder it was made for. `factors`: array names of every site, [A, B] of a pair or [W] alone.
    `folded`: what the edits leave that come before those."""

    source: Decoder
    plan: Plan
    folded: Decoder
    factors: Mapping[Site, tuple[str, ...]]

    @classmethod
    def of(cls, source: Decoder, plan: Plan, *, dense: bool) -> Stored:
        """`dense`: whether sites that the plan leaves as they are count too, each as a W of its own."""
        folded = apply_edits([edit for edit in plan.edits if edit.phase < Phase.WEIGHTS], source, plan.arrays)
        factors: dict[Site, tuple[str, ...]] = {edit.site: tuple(edit.arrays()) for edit in plan.at_sites}
        if dense:
            covered = {part for site in factors for part in site.parts}
            for block in folded.blocks:
                alone = [Site(block.number, (role,)) for role in block.roles]
                factors |= {site: (f"{site}.W",) for site in alone if site not in covered}
        return cls(source, plan, folded, factors)

    def matrices(self) -> dict[str, Tensor]:
        """Every stored matrix by name, float32, on the model's device."""
        named = {block.number: block for block in self.folded.blocks}
        found: dict[str, Tensor] = {}
        for site, names in self.factors.items():
            for name in names:
                if name in self.plan.arrays:
                    found[name] = torch.from_numpy(np.array(self.plan.arrays[name])).to(self.source.device)
                else:
                    found[name] = named[site.block].weight(site.role).to(torch.float32).clone()
        return found

    def blocks(self, matrices: Mapping[str, Tensor]) -> tuple[Block, ...]:
        """The compressed blocks with these matrices; gradients flow through."""
        weights: dict[int, dict[str, Tensor]] = {}
        named = {block.number: block for block in self.folded.blocks}
        for site, names in self.factors.items():
            first, *rest = (matrices[name] for name in names)
            whole = first @ rest[0] if rest else first
            widths = [named[site.block].weight(role).shape[1] for role in site.roles]
            weights.setdefault(site.block, {}).update(zip(site.roles, whole.split(widths, dim=1), strict=True))
        return tuple(
            block.with_weights(weights[block.number]) if block.number in weights else block
            for block in self.folded.blocks
        )

    def written(self, matrices: Mapping[str, Tensor], changed: frozenset[str]) -> Plan:
        """The plan with the `changed` matrices; sites that were dense become `replace_weight` edits."""
        arrays = {name: self.plan.arrays[name] for name in self.plan.arrays}
        arrays |= {name: np.ascontiguousarray(matrices[name].detach().cpu().numpy()) for name in changed}
        known = {edit.site for edit in self.plan.at_sites}
        named = {block.number: block for block in self.folded.blocks}
        added: list[Edit] = [
            ReplaceWeight(site, names[0], replaced_digests(self.source.blocks, named[site.block], site.roles))
            for site, names in self.factors.items() if site not in known and names[0] in changed
        ]
        first = [edit for edit in self.plan.edits if edit.phase <= Phase.WEIGHTS]
        edits = (*first, *added, *(edit for edit in self.plan.edits if edit.phase > Phase.WEIGHTS))
        return replace(self.plan, arrays=arrays, document=replace(self.plan.document, edits=edits))
