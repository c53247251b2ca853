"""Plain SVD: W ~ U_k S_k V_k^T, the best pair for inputs nothing is known of; the same ratio for every site.

What every method that looks at the inputs must beat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from foldrank.edits.base import Phase
from foldrank.plans.low_rank.decomposing import Budget, Metrics, uniform
from foldrank.plans.low_rank.grams import BlockStatistics
from foldrank.plans.low_rank.whitening import Metric
from foldrank.plans.method import Method, Result, Task
from foldrank.plans.models.block import Block
from foldrank.sites import Site


def blind(block: Block, _statistics: BlockStatistics, sites: Sequence[Site]) -> Mapping[Site, Metric]:
    """The metric under which all channels count alike, whatever the inputs are."""
    weights = {site: block.weight(site.roles[0]) for site in sites}
    return {site: Metric(torch.eye(len(w), dtype=torch.float64, device=w.device)) for site, w in weights.items()}


BLIND = Metrics(blind)
"""`blind`, which looks at no text."""


def run(task: Task, settings: Budget) -> Result:
    """Factor the model. Raises ValueError where the budget is below the smallest ranks."""
    return uniform(task, settings, BLIND, "svd")


METHOD = Method("svd", Budget, run, phase=Phase.WEIGHTS)
