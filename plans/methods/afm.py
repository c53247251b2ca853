"""AFM, Atomic Feature Mimicking (Yu & Wu, AAAI 2023, doi 10.1609/aaai.v37i9.26304): what a linear gives is low-rank.

U holds the first eigenvectors of the covariance of the outputs y = x W over the text, and y' = E[y] + (y - E[y]) U U^T:
the pair A = W U, B = U^T, and a bias E[y] (I - U U^T). Of all pairs of a rank with a bias none comes nearer to y. With
second moments in the place of the covariance, and without the bias, it would be `svd_llm`. Ranks: `closed-form`, as of
`dipsvd`, or `uniform`, the same ratio for every site.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as settings_dataclass
from torch import Tensor, outer

from foldrank.edits.add_bias import AddBias
from foldrank.edits.base import Phase
from foldrank.errors import SourceError
from foldrank.plans.low_rank import allocation
from foldrank.plans.low_rank.decomposing import Budget, Decomposed, Metrics, decompose, truncated, within
from foldrank.plans.low_rank.factoring import sites_of, stacked
from foldrank.plans.low_rank.grams import BlockStatistics, input_of
from foldrank.plans.low_rank.ranks import Ranks, from_ratios
from foldrank.plans.low_rank.waterfill import water_fill, weighted
from foldrank.plans.low_rank.whitening import Metric
from foldrank.plans.method import Method, Result, Task
from foldrank.plans.models.block import Block
from foldrank.plans.simulate import apply_edits
from foldrank.sites import Site

CURVATURE_WINDOWS = 4


@settings_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Settings(Budget):
    """`ratios`: how the budget, which does not count biases, is shared."""

    ratios: Literal["closed-form", "uniform"] = "closed-form"


def covariances(
    block: Block, statistics: BlockStatistics, sites: Sequence[Site], *, tokens: int
) -> Mapping[Site, Metric]:
    """Of each site's input, times the number of tokens: sum x^T x - sum x^T sum x / tokens."""
    made = {role: Metric(gram - outer(total, total) / tokens)
            for role, gram in statistics.inputs.items() for total in [statistics.totals[role]]}
    return {site: made[input_of(block, site.roles[0])] for site in sites}


def run(task: Task, settings: Settings) -> Result:
    """Factor the model. Raises ValueError where the budget is below the smallest ranks, SourceError where roles lie
    head by head in one weight: then nothing says which numbers of a bias are whose."""
    if settings.keep == 1:
        return Result(task.decoder, edits=(), kept=1.0)
    if together := task.decoder.family.interleaved:
        site = sites_of(task.decoder.blocks[0], settings.packed)[0]
        raise SourceError(site, f"one weight holds {', '.join(together)} head by head, and a bias stands behind one "
                          "role", "use svd_llm, which needs none, with packed=joint")
    metrics = Metrics(partial(covariances, tokens=task.ids.size), ("grams", "totals"))
    parts = decompose(task, metrics, settings.packed)
    ranks = _ranks(task, settings, parts)
    found = truncated(task, parts, ranks, "afm")
    biases = {edit: array for site, rank in ranks.items() if rank is not None
              for edit, array in _biases(task, parts, site, rank)}
    arrays = {edit.bias: array for edit, array in biases.items()}
    return replace(found, decoder=apply_edits(biases, found.decoder, arrays), edits=(*biases, *found.edits),
                   arrays={**found.arrays, **arrays})


METHOD = Method("afm", Settings, run, phase=Phase.WEIGHTS)


def _ranks(task: Task, settings: Settings, parts: Decomposed) -> Ranks:
    if settings.ratios == "uniform":
        same = {c.site.block: settings.keep for c in parts.candidates}
        return within(settings, task, parts.candidates, from_ratios(parts.candidates, same, settings.align), "afm")
    curvatures = allocation.curvatures(task.decoder, task.ids[:CURVATURE_WINDOWS], task.shelf, task.progress)
    candidates = weighted(parts.candidates, parts.losses, curvatures)
    return within(settings, task, candidates, water_fill(candidates, settings.numbers(task), settings.align), "afm")


def _biases(task: Task, parts: Decomposed, site: Site, rank: int) -> Iterator[tuple[AddBias, np.ndarray]]:
    """What W gives on average and the pair, as it is stored, does not; by role."""
    block, pair = task.decoder.block(site.block), parts.pair(site, rank)
    mean_I = parts.total(block, site) / task.ids.size
    lost_IO = stacked(block, site).cpu().double() - pair.a.double() @ pair.b.double()
    vectors: tuple[Tensor, ...] = (mean_I @ lost_IO).float().split([block.weight(r).shape[1] for r in site.roles])
    for part, vector in zip(site.parts, vectors, strict=True):
        yield AddBias(part, len(vector), f"{part}.bias"), vector.numpy().copy()
