"""Plain SVD: W ~ U_k S_k V_k^T, the best pair for inputs nothing is known of; the same ratio for every site.

What every method that looks at the inputs must beat.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foldrank.edits.base import Phase
from foldrank.plans.low_rank.decomposing import Budget, by_input, uniform
from foldrank.plans.low_rank.whitening import Metric
from foldrank.plans.method import Method, Result, Task


def blind(gram_II: Tensor) -> Metric:
    """The metric under which all channels count alike, whatever the inputs are."""
    return Metric(torch.eye(len(gram_II), dtype=gram_II.dtype, device=gram_II.device))


def run(task: Task, settings: Budget) -> Result:
    """Factor the model. Raises ValueError where the budget is below the smallest ranks."""
    return uniform(task, settings, by_input(blind), "svd")


METHOD = Method("svd", Budget, run, phase=Phase.WEIGHTS)
