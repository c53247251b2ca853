"""Basis Sharing (arXiv 2410.03765): neighbouring blocks share one basis for the same linear.

The weights of `group` consecutive blocks stand side by side, [W_1 ... W_g] [in, g * out], and are truncated together
under the sum of their inputs' Gram matrices: one A [in, k] for all of them, B_i [k, out] for each. As in the paper q,
k, v, gate and up share; o and down, whose bases differ most between blocks, are truncated alone. A is counted once. A
rank is never so large that a pair alone would save nothing: a graph multiplies by A in every block.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as settings_dataclass
from torch import Tensor

from foldrank.edits import rank_limit
from foldrank.plans.low_rank.decomposing import Budget, described, within
from foldrank.plans.low_rank.factoring import Pair, factored, sites_of, stacked
from foldrank.plans.low_rank.grams import block_statistics, input_of
from foldrank.plans.low_rank.ranks import Candidate, from_site_ratios
from foldrank.plans.low_rank.truncation import Truncations, truncations
from foldrank.plans.low_rank.whitening import Metric
from foldrank.plans.method import Method, Result, Task
from foldrank.plans.models.decoder import Block
from foldrank.progress import track
from foldrank.sites import Site

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


METHOD = Method("basis_sharing", Settings, run, folds=False)


def share(task: Task, group: int) -> list[Shared]:
    """Run the text through the blocks and decompose group by group; one group's Gram matrices are in memory."""
    decoder, hidden, found = task.decoder, task.decoder.embed(task.ids), []
    count = math.ceil(len(decoder.blocks) / group)
    for index in track(range(count), "basis_sharing", count, task.progress):
        blocks, grams = decoder.blocks[index * group : (index + 1) * group], []
        for block in blocks:
            statistics, hidden = block_statistics(decoder, block, hidden)
            grams.append(statistics.inputs)
        for site in sites_of(blocks[0], "split"):
            found += _alone(blocks, grams, site.role) if site.role in ALONE else [_together(blocks, grams, site.role)]
    return found


def _alone(blocks: Sequence[Block], grams: Sequence[Mapping[str, Tensor]], role: str) -> list[Shared]:
    return [_together([block], [gram], role) for block, gram in zip(blocks, grams, strict=True)]


def _together(blocks: Sequence[Block], grams: Sequence[Mapping[str, Tensor]], role: str) -> Shared:
    sites = tuple(Site(block.number, (role,)) for block in blocks)
    weights = [stacked(block, site) for block, site in zip(blocks, sites, strict=True)]
    gram = torch.stack([gram[input_of(block, role)] for block, gram in zip(blocks, grams, strict=True)]).sum(dim=0)
    parts = truncations(torch.cat(weights, dim=1), Metric(gram))
    return Shared(sites, parts, tuple(w.shape[1] for w in weights), weights[0].shape[0])
