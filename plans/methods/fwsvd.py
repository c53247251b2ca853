"""FWSVD, Fisher-weighted SVD (arXiv 2207.00112): rows of W [in, out] count by the squared gradients of their numbers.

M = diag(sum over o of F_io), F the empirical Fisher: squared gradients of the loss, summed over windows. Inputs are not
looked at. The paper takes one gradient for each training example of a task; here one for each calibration window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as settings_dataclass
from torch import Tensor

from foldrank.edits.base import Phase
from foldrank.plans.low_rank.decomposing import Budget, Metrics, uniform
from foldrank.plans.low_rank.gradients import BlockGradients, reduced
from foldrank.plans.low_rank.grams import BlockStatistics
from foldrank.plans.low_rank.whitening import Metric
from foldrank.plans.method import Method, Result, Task
from foldrank.plans.models.block import Block
from foldrank.plans.shelf import Finding
from foldrank.sites import Site


@settings_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Settings(Budget):
    """`windows`: how many windows gradients are taken on."""

    windows: Annotated[int, Field(ge=1)] = 8


def row_weights(found: BlockGradients) -> dict[str, Tensor]:
    """Squared gradients summed over windows and outputs, by role [I], float64."""
    squares = {
        name: sum((window[name].double() ** 2 for window in found.windows), torch.zeros((), dtype=torch.float64))
        for name in found.windows[0]
    }
    as_block = replace(found.block, tensors=squares)
    return {role: as_block.weight(role).sum(dim=1) for role in found.block.roles}


def fisher(task: Task, windows: int) -> Metrics:
    """The metric of each site: the rows of all its roles together."""
    found = reduced(task.decoder, task.ids[:windows], lambda one: Finding(row_weights(one)), task.shelf, task.progress)

    def metrics(block: Block, _statistics: BlockStatistics, sites: Sequence[Site]) -> Mapping[Site, Metric]:
        device = next(iter(block.tensors.values())).device
        rows = {role: sums.to(device) for role, sums in found[block.number].tensors.items()}
        return {site: Metric(torch.diag(torch.stack([rows[role] for role in site.roles]).sum(dim=0))) for site in sites}

    return Metrics(metrics)


def run(task: Task, settings: Settings) -> Result:
    """Factor the model. Raises ValueError where the budget is below the smallest ranks."""
    return uniform(task, settings, fisher(task, settings.windows), "fwsvd")


METHOD = Method("fwsvd", Settings, run, phase=Phase.WEIGHTS)
