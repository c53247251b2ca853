"""SVD-LLM V2 (arXiv 2503.12340): SVD-LLM with one ratio per matrix, by what its truncation would lose.

Matrices of one type (all q, all k, ...) form a group. With L_i = |X W_i - X W_i'| at the ratio asked for, matrix i
gives up the share (1 - keep) * n * (1 / log L_i) / sum_j (1 / log L_j): what loses more gives up less. L_i is over all
calibration tokens; where it is below e, log L_i counts as 1. No matrix gives up more than MOST.
"""

from __future__ import annotations

import numpy as np

from foldrank.edits.base import Phase
from foldrank.plans.low_rank.decomposing import Budget, Decomposed, by_input, decompose, truncated, within
from foldrank.plans.low_rank.ranks import from_ratios, from_site_ratios
from foldrank.plans.low_rank.whitening import Metric
from foldrank.plans.method import Method, Result, Task
from foldrank.sites import Site

MOST = 0.95


def ratios(parts: Decomposed, keep: float, align: int) -> dict[Site, float]:
    """Share of its numbers that each site keeps."""
    start = from_ratios(parts.candidates, {c.site.block: keep for c in parts.candidates}, align)
    found: dict[Site, float] = {}
    for role in dict.fromkeys(c.site.role for c in parts.candidates):
        group = [c.site for c in parts.candidates if c.site.role == role]
        lost = np.sqrt([parts.losses[site][start[site] or -1] for site in group])
        given = 1 / np.log(np.maximum(lost, np.e))
        shares = np.minimum((1 - keep) * len(group) * given / given.sum(), MOST)
        found |= dict(zip(group, (1 - shares).tolist(), strict=True))
    return found


def run(task: Task, settings: Budget) -> Result:
    """Factor the model. Raises ValueError where the budget is below the smallest ranks."""
    if settings.keep == 1:
        return Result(task.decoder, edits=(), kept=1.0)
    parts = decompose(task, by_input(Metric), settings.packed)
    start = from_site_ratios(parts.candidates, ratios(parts, settings.keep, settings.align), settings.align)
    return truncated(task, parts, within(settings, task, parts.candidates, start, "svd_llm_v2"), "svd_llm_v2")


METHOD = Method("svd_llm_v2", Budget, run, phase=Phase.WEIGHTS)
