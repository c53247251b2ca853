"""SVD-LLM (arXiv 2403.07378): truncation under the Gram matrix of the inputs, the same ratio for every site.

The paper whitens by a Cholesky factor, which needs a Gram matrix of full rank; `low_rank/truncation.py` finds the same
pair without one. Its parameter update (LoRA on the factors) belongs to recovery.
"""

from __future__ import annotations

from foldrank.edits.base import Phase
from foldrank.plans.low_rank.decomposing import Budget, by_input, uniform
from foldrank.plans.low_rank.whitening import Metric
from foldrank.plans.method import Method, Result, Task


def run(task: Task, settings: Budget) -> Result:
    """Factor the model. Raises ValueError where the budget is below the smallest ranks."""
    return uniform(task, settings, by_input(Metric), "svd_llm")


METHOD = Method("svd_llm", Budget, run, phase=Phase.WEIGHTS)
