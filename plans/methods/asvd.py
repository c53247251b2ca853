"""ASVD (arXiv 2312.05821): SVD of S W with S = diag(mean |x_j|^alpha), alpha = 0.5, so that loud channels count more.

As a metric: M = S^2. The paper chooses each layer's rank by its own effect on perplexity; here the ratio is the same
for every site.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as settings_dataclass

from foldrank.edits.base import Phase
from foldrank.plans.low_rank.decomposing import Budget, Metrics, uniform
from foldrank.plans.low_rank.grams import BlockStatistics, Sum, input_of
from foldrank.plans.low_rank.whitening import Metric
from foldrank.plans.method import Method, Result, Task
from foldrank.plans.models.block import Block
from foldrank.sites import Site


@settings_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Settings(Budget):
    """`alpha`: 0 is plain SVD."""

    alpha: Annotated[float, Field(ge=0, le=2)] = 0.5


def metrics(
    block: Block, statistics: BlockStatistics, sites: Sequence[Site], *, alpha: float
) -> Mapping[Site, Metric]:
    """diag(mean |x_j|^(2 alpha)) of each site's input. A common factor changes no pair, so sums stand for means."""
    return {
        site: Metric(torch.diag(statistics.magnitudes[input_of(block, site.roles[0])] ** (2 * alpha)))
        for site in sites
    }


def run(task: Task, settings: Settings) -> Result:
    """Factor the model. Raises ValueError where the budget is below the smallest ranks."""
    wanted: tuple[Sum, ...] = ("magnitudes",)
    return uniform(task, settings, Metrics(partial(metrics, alpha=settings.alpha), wanted), "asvd")


METHOD = Method("asvd", Settings, run, phase=Phase.WEIGHTS)
