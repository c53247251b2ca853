"""What every low-rank method does: the text through the blocks, every site decomposed on the way, ranks, pairs.

A method says under which metric a site is truncated, what that looks at and how the budget is shared; where it looks at
no text, none is run. Only one block's Gram matrices are in memory at a time, and its truncations lie on the task's
shelf until their ranks are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as settings_dataclass
from torch import Tensor

from foldrank.plans.low_rank import allocation
from foldrank.plans.low_rank.factoring import factored, sites_of, stacked
from foldrank.plans.low_rank.grams import GRAMS, BlockStatistics, Sum, input_of
from foldrank.plans.low_rank.ranks import Candidate, Ranks, from_ratios, smallest, spend, total
from foldrank.plans.low_rank.truncation import truncations
from foldrank.plans.low_rank.whitening import Metric
from foldrank.plans.method import Result, Task
from foldrank.plans.models.block import Block, Pair
from foldrank.plans.shards import Sums
from foldrank.plans.shelf import Finding, States, walk
from foldrank.sites import Site


@dataclass(frozen=True)
class Metrics:
    """The metric of each site of a block, given the sums over the block's inputs that are `wanted`."""

    of: Callable[[Block, BlockStatistics, Sequence[Site]], Mapping[Site, Metric]]
    wanted: Collection[Sum] = ()


@settings_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Budget:
    """`keep`: share of the blocks' weights left, at most. `align`: ranks are its multiples where that is affordable.

    `packed`: factor q, k, v (and gate, up) jointly, or each alone as published.
    """

    keep: Annotated[float, Field(gt=0, le=1)]
    align: Annotated[int, Field(ge=1)] = 16
    packed: Literal["joint", "split"] = "split"

    def numbers(self, task: Task) -> int:
        """How many numbers the blocks' weights may hold; the small term undoes 0.29 * 100 = 28.99..."""
        return math.floor(self.keep * task.decoder.site_parameters + 1e-9)


def by_input(make: Callable[[Tensor], Metric]) -> Metrics:
    """One metric for each distinct input of a block, from its Gram matrix [I, I]."""
    def metrics(block: Block, statistics: BlockStatistics, sites: Sequence[Site]) -> Mapping[Site, Metric]:
        made = {role: make(gram) for role, gram in statistics.inputs.items()}
        return {site: made[input_of(block, site.roles[0])] for site in sites}

    return Metrics(metrics, GRAMS)


@dataclass(frozen=True)
class Decomposed:
    """All truncations of all sites. `losses` [K + 1] of a site: absolute, by rank. `effective_ranks`: of the blocks'
    outputs, where they were asked for."""

    candidates: tuple[Candidate, ...]
    losses: Mapping[Site, np.ndarray]
    effective_ranks: tuple[int, ...]
    findings: Mapping[int, Finding]

    def pair(self, site: Site, rank: int) -> Pair:
        """The pair of a rank."""
        held = self.findings[site.block]
        return Pair(held.rows(f"{site.role}.A", rank).T.contiguous(), held.rows(f"{site.role}.B", rank))

    def total(self, block: Block, site: Site) -> Tensor:
        """Sum of the site's inputs over all tokens [I], float64, where the metrics wanted totals."""
        return self.findings[block.number].tensors[f"{input_of(block, site.roles[0])}.total"]

    def pairs(self, ranks: Ranks) -> dict[Site, Pair]:
        """The pair of every site that is not left dense."""
        return {site: self.pair(site, rank) for site, rank in ranks.items() if rank is not None}


def decompose(task: Task, metrics: Metrics, packed: str, *, outputs: bool = False) -> Decomposed:
    """Run the text through the blocks, each seeing the original outputs of the block below; decompose every site.

    `outputs`: find the effective ranks of the blocks' outputs too. Nothing is run where nothing of the text is asked.
    """
    decoder, reads = task.decoder, outputs or bool(metrics.wanted)

    def start() -> States:
        return task.shards.start(decoder, task.ids) if reads else {}

    def step(block: Block, states: States) -> tuple[Finding, States]:
        sums, after = Sums(BlockStatistics()), States()
        if reads:
            sums, after = task.shards.through(decoder, task.ids, block, states, metrics.wanted, output=outputs)
        tensors = dict(_tensors(block, metrics.of(block, sums.inputs, sites_of(block, packed))))
        tensors |= {f"{role}.total": total.cpu() for role, total in sums.inputs.totals.items()}
        values = {} if sums.output is None else {"effective_rank": allocation.effective_rank(sums.output)}
        return Finding(tensors, values), after

    findings = walk(
        decoder.blocks, task.shelf.under("decompose"), start, step, stage="decompose", device=decoder.device,
        progress=task.progress,
    )
    losses = {
        site: findings[site.block].tensors[f"{site.role}.losses"].numpy()
        for block in decoder.blocks for site in sites_of(block, packed)
    }
    candidates = tuple(_candidate(b, site, losses[site]) for b in decoder.blocks for site in sites_of(b, packed))
    ranks = tuple(findings[block.number].values["effective_rank"] for block in decoder.blocks if outputs)
    return Decomposed(candidates, losses, ranks, findings)


def within(budget: Budget, task: Task, candidates: Sequence[Candidate], start: Ranks, name: str) -> Ranks:
    """Ranks from `start` that use up the budget and never exceed it. Raises ValueError where nothing fits."""
    numbers = budget.numbers(task)
    if total(candidates, start) > numbers:
        start = smallest(candidates, 1)
    try:
        return spend(candidates, start, numbers, budget.align)
    except ValueError as error:
        raise ValueError(f"{name}: keep={budget.keep}: {error}") from None


def uniform(task: Task, budget: Budget, metrics: Metrics, name: str) -> Result:
    """The result of the same ratio for every site. Raises ValueError where the budget is below the smallest ranks."""
    if budget.keep == 1:
        return Result(task.decoder, edits=(), kept=1.0)
    parts = decompose(task, metrics, budget.packed)
    same = {c.site.block: budget.keep for c in parts.candidates}
    ranks = within(budget, task, parts.candidates, from_ratios(parts.candidates, same, budget.align), name)
    return truncated(task, parts, ranks, name)


def truncated(task: Task, parts: Decomposed, ranks: Ranks, name: str) -> Result:
    """The result of cutting every site at its rank."""
    return described(factored(task, parts.pairs(ranks)), parts.candidates, ranks, name)


def described(result: Result, candidates: Sequence[Candidate], ranks: Ranks, name: str) -> Result:
    """The result with the mean relative loss predicted and the spectra that the report draws."""
    return replace(
        result,
        predicted={f"{name}.mean_relative_loss": float(np.mean([c.loss(ranks[c.site]) for c in candidates]))},
        diagnostics={"spectra": [_spectrum(c, ranks[c.site]) for c in candidates]},
    )


def _tensors(block: Block, metrics: Mapping[Site, Metric]) -> Iterator[tuple[str, Tensor]]:
    """A, turned so that a rank is a run of rows, B and the losses of every site."""
    for site, metric in metrics.items():
        parts = truncations(stacked(block, site), metric)
        yield f"{site.role}.A", parts.a_IK.T.contiguous().cpu()
        yield f"{site.role}.B", parts.b_KO.cpu()
        yield f"{site.role}.losses", torch.from_numpy(parts.losses)


def _candidate(block: Block, site: Site, losses: np.ndarray) -> Candidate:
    n_in = block.weight(site.roles[0]).shape[0]
    shares = losses / losses[0] if losses[0] > 0 else np.zeros_like(losses)
    return Candidate(site, n_in, sum(block.weight(role).shape[1] for role in site.roles), shares)


def _spectrum(candidate: Candidate, rank: int | None) -> dict[str, object]:
    """At most 64 points of the relative loss by rank, for the picture."""
    full = len(candidate.shares) - 1
    points = np.unique(np.linspace(0, full, 64).round().astype(int))
    return {
        "site": str(candidate.site), "ranks": points.tolist(), "values": candidate.shares[points].tolist(),
        "rank": rank, "full": full,
    }
