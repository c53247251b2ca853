"""AFM, Atomic Feature Mimicking (Yu & Wu, AAAI 2023, doi 10.1609/aaai.v37i9.26304): what a linear gives is low-rank.

U holds the first eigenvectors of the covariance of the outputs y = x W over the text, and y' = E[y] + (y - E[y]) U U^T:
the pair A = W U, B = U^T, and a bias E[y] (I - U U^T). Of all pairs of a rank with a bias none comes nearer to y. With
second moments in the place of the covariance, and without the bias, it would be `svd_llm`. Ranks: `closed-form`, as of
`dipsvd`, or `uniform`, the same ratio for every site.

Head and table of words too, where asked for, on the model as its blocks are left (`low_rank/tables.py`): without a
bias, which a head has not, so by second moments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as settings_dataclass
from torch import Tensor, outer

from foldrank.edits.add_bias import AddBias
from foldrank.edits.base import Phase
from foldrank.errors import SourceError
from foldrank.plans.low_rank import allocation, tables
from foldrank.plans.low_rank.decomposing import Budget, Decomposed, Metrics, decompose, truncated, within
from foldrank.plans.low_rank.factoring import sites_of, stacked
from foldrank.plans.low_rank.grams import BlockStatistics, input_of
from foldrank.plans.low_rank.ranks import Ranks, aligned_rank, from_ratios
from foldrank.plans.low_rank.tables import Of
from foldrank.plans.low_rank.waterfill import water_fill, weighted
from foldrank.plans.low_rank.whitening import Metric
from foldrank.plans.method import Method, Result, Task
from foldrank.plans.models.block import Block
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.simulate import apply_edits
from foldrank.sites import Site

CURVATURE_WINDOWS = 4

Share = Annotated[float, Field(gt=0, le=1)]


@settings_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Settings(Budget):
    """`ratios`: how the budget, which does not count biases, is shared. Of the numbers of the head, of the table of
    words and, where both are one, of that `head_keep`, `embedding_keep` and `tables_keep` are left, at most; 1: all.
    `words`: errors count by how often a word is there or `likely`, or all `alike`."""

    ratios: Literal["closed-form", "uniform"] = "closed-form"
    head_keep: Share = 1.0
    embedding_keep: Share = 1.0
    tables_keep: Share = 1.0
    words: Literal["likely", "alike"] = "likely"

    def __post_init__(self) -> None:
        if self.tables_keep < 1 and min(self.head_keep, self.embedding_keep) < 1:
            raise ValueError("tables_keep is one pair for head and embedding; give it, or head_keep and embedding_keep")

    def table_ranks(self, decoder: Decoder) -> dict[Of, int]:
        """Of each table that is replaced. Raises ValueError where the tables are not as the settings have them."""
        if self.tables_keep < 1 and not decoder.tied:
            raise ValueError("tables_keep: head and embedding are two tables; give head_keep and embedding_keep")
        if self.embedding_keep < 1 and self.head_keep == 1 and decoder.tied:
            raise ValueError("embedding_keep: the table stays for the head, which is one with it; give tables_keep")
        kept: dict[Of, float] = {"embedding": self.embedding_keep, "head": self.head_keep, "both": self.tables_keep}
        shape = decoder.head.shape[0], decoder.head.shape[1]
        return {of: aligned_rank(shape, keep, self.align) for of, keep in kept.items() if keep < 1}


def covariances(
    block: Block, statistics: BlockStatistics, sites: Sequence[Site], *, tokens: int
) -> Mapping[Site, Metric]:
    """Of each site's input, times the number of tokens: sum x^T x - sum x^T sum x / tokens."""
    made = {role: Metric(gram - outer(total, total) / tokens)
            for role, gram in statistics.inputs.items() for total in [statistics.totals[role]]}
    return {site: made[input_of(block, site.roles[0])] for site in sites}


def run(task: Task, settings: Settings) -> Result:
    """Factor the model. Raises ValueError where the budget is below the smallest ranks or tables are not as asked,
    SourceError where roles lie head by head in one weight: then nothing says which numbers of a bias are whose."""
    ranks = settings.table_ranks(task.decoder)
    made = _blocks(task, settings)
    if not ranks:
        return made
    ends = tables.factored(made.decoder, task.ids, ranks, "afm", likely=settings.words == "likely")
    return replace(made, decoder=ends.decoder, edits=(*made.edits, *ends.edits), arrays={**made.arrays, **ends.arrays},
                   predicted={**made.predicted, **ends.predicted})


def _blocks(task: Task, settings: Settings) -> Result:
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
