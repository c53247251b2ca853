"""Basis Sharing (arXiv 2410.03765): neighbouring blocks share one basis for the same linear.

The weights of `group` consecutive blocks stand side by side, [W_1 ... W_g] [in, g * out], and are truncated together
under the sum of their inputs' Gram matrices: one A [in, k] for all of them, B_i [k, out] for each. As in the paper q,
k, v, gate and up share; o and down, whose bases differ most between blocks, are truncated alone. A is counted once. A
rank is never so large that a pair alone would save nothing: a graph multiplies by A in every block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as settings_dataclass
from torch import Tensor

from foldrank.edits.base import Phase
from foldrank.edits.low_rank import rank_limit
from foldrank.plans.low_rank.decomposing import Budget, described, within
from foldrank.plans.low_rank.factoring import factored, stacked
from foldrank.plans.low_rank.grams import input_of
from foldrank.plans.low_rank.ranks import Candidate, from_site_ratios
from foldrank.plans.low_rank.truncation import Truncations, truncations
from foldrank.plans.low_rank.whitening import Metric
from foldrank.plans.method import Method, Result, Task
from foldrank.plans.models.block import Block, Pair
from foldrank.plans.shelf import Finding, States, walk
from foldrank.sites import ROLES, Site

ALONE = ("o", "down")


@settings_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Settings(Budget):
    """`group`: how many neighbouring blocks share. `packed` must be split: bases are shared linear by linear."""

    packed: Literal["split"] = "split"
    group: Annotated[int, Field(ge=1)] = 2


@dataclass(frozen=True)
class Shared:
    """Sites that share a basis, their truncations together, and the widths [out] of their columns."""

    sites: tuple[Site, ...]
    parts: Truncations
    widths: tuple[int, ...]
    n_in: int

    @property
    def candidate(self) -> Candidate:
        """The group as one site, its ranks capped at what saves in each of its pairs."""
        limit = min(rank_limit(self.n_in, min(self.widths)), len(self.parts.losses) - 1)
        return Candidate(self.sites[0], self.n_in, sum(self.widths), self.parts.shares[: max(limit, 0) + 1])

    def pairs(self, rank: int) -> dict[Site, Pair]:
        """The pair of each site."""
        a, b = self.parts.pair(rank)
        name = f"{self.sites[0]}.A" if len(self.sites) == 1 else f"{self.sites[0]}.A.{len(self.sites)}"
        columns = b.split(list(self.widths), dim=1)
        return {site: Pair(a, part, shared=name) for site, part in zip(self.sites, columns, strict=True)}


def run(task: Task, settings: Settings) -> Result:
    """Factor the model. Raises ValueError where the budget is below the smallest ranks."""
    if settings.keep == 1:
        return Result(task.decoder, edits=(), kept=1.0)
    groups = {shared.sites[0]: shared for shared in share(task, settings.group)}
    candidates = [shared.candidate for shared in groups.values()]
    start = from_site_ratios(candidates, dict.fromkeys(groups, settings.keep), settings.align)
    ranks = within(settings, task, candidates, start, "basis_sharing")
    pairs = {
        site: pair for first, rank in ranks.items() if rank is not None
        for site, pair in groups[first].pairs(rank).items()
    }
    return described(factored(task, pairs), candidates, ranks, "basis_sharing")


METHOD = Method("basis_sharing", Settings, run, phase=Phase.WEIGHTS)


def share(task: Task, group: int) -> list[Shared]:
    """Run the text through the blocks and decompose group by group; one group's Gram matrices are in memory."""
    decoder = task.decoder
    groups = {decoder.blocks[i].number: decoder.blocks[i : i + group] for i in range(0, len(decoder.blocks), group)}

    def step(lead: Block, states: States) -> tuple[Finding, States]:
        grams = {}
        for block in groups[lead.number]:
            sums, states = task.shards.through(decoder, task.ids, block, states)
            grams[block.number] = sums.inputs.inputs
        parts = {_name(sharing): _truncated(sharing, grams) for sharing in _sharing(groups[lead.number])}
        named = {f"{name}.{key}": tensor for name, held in parts.items() for key, tensor in held.items()}
        return Finding(named), states

    found = walk(
        tuple(blocks[0] for blocks in groups.values()), task.shelf.under("share"),
        lambda: task.shards.start(decoder, task.ids), step, stage="basis_sharing", device=decoder.device,
        progress=task.progress,
    )
    return [_shared(sharing, found[lead]) for lead, blocks in groups.items() for sharing in _sharing(blocks)]


Sharing = tuple[tuple[Block, Site], ...]
"""Sites that share a basis, with their blocks."""


def _sharing(blocks: Sequence[Block]) -> Iterator[Sharing]:
    """Role by role: those of the blocks that have it and read as many inputs there, or each alone."""
    for role in ROLES:
        together: dict[int, list[tuple[Block, Site]]] = {}
        for number, block in enumerate(blocks):
            if role in block.roles:
                key = number if role in ALONE else -len(block.weight(role))
                together.setdefault(key, []).append((block, Site(block.number, (role,))))
        yield from map(tuple, together.values())


def _name(sharing: Sharing) -> str:
    return str(sharing[0][1])


def _truncated(sharing: Sharing, grams: Mapping[int, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    role = sharing[0][1].role
    gram = torch.stack([grams[block.number][input_of(block, role)] for block, _ in sharing]).sum(dim=0)
    parts = truncations(torch.cat([stacked(block, site) for block, site in sharing], dim=1), Metric(gram))
    return {"A": parts.a_IK, "B": parts.b_KO, "losses": torch.from_numpy(parts.losses)}


def _shared(sharing: Sharing, found: Finding) -> Shared:
    a, b, losses = (found.tensors[f"{_name(sharing)}.{key}"] for key in ("A", "B", "losses"))
    widths = tuple(block.weight(site.role).shape[1] for block, site in sharing)
    sites = tuple(site for _, site in sharing)
    return Shared(sites, Truncations(a, b, losses.numpy()), widths, len(a))
