"""DipSVD, dual-importance protected SVD (June 2025): every linear of every block becomes a low-rank pair.

Local importance: the metric of `whitening.py` under which a weight is truncated (`truncation.py`). Global importance:
how the budget is shared (`ratios`):
    uniform     the same ratio for every block
    released    per block, more where sensitivity and effective rank are low   (DipSVD's released heuristic)
    formula     per block, more where they are high                            (the formula in notes on the paper)
    spectrum    per site: rank by rank to whoever gains most relative loss per number (not in the paper; the default)
Which sign is right depends on the model. Perplexity over dense at keep 0.8 (plain, joint) for uniform / released /
formula / spectrum: specs-5m (align 16) 1.058 / 1.065 / 1.022 / 1.013; a compact model of 300K parameters (align 2)
2.77 / 2.24 / 4.86 / 2.78. `spectrum` is never far behind `uniform`, often ahead, and needs no gradients.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as settings_dataclass
from torch import Tensor

from foldrank.plans import allocation
from foldrank.plans.decomposing import Budget, Decomposed, by_input, decompose, truncated, within
from foldrank.plans.method import Method, Result, Task
from foldrank.plans.ranks import Ranks, from_ratios, smallest
from foldrank.plans.whitening import Metric, Whitening, metric

SENSITIVITY_WINDOWS = 4


@settings_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Settings(Budget):
    """`keep`: share of the blocks' weights left, at most. `packed`: factor q, k, v (and gate, up) jointly or apart."""

    packed: Literal["joint", "split"] = "joint"
    whitening: Whitening = "plain"
    top_share: Annotated[float, Field(ge=0, le=1)] = 0.03
    weight: Annotated[float, Field(gt=0)] = 30.0
    ratios: Literal["uniform", "released", "formula", "spectrum"] = "spectrum"

    def metric(self, gram_II: Tensor) -> Metric:
        """The metric of an input."""
        return metric(gram_II, self.whitening, top_share=self.top_share, weight=self.weight)


def run(task: Task, settings: Settings) -> Result:
    """Factor the model. Raises ValueError where the budget is below the smallest ranks."""
    if settings.keep == 1:
        return Result(task.decoder, edits=(), kept=1.0)
    parts = decompose(task, by_input(settings.metric), settings.packed)
    ranks = within(settings, task, parts.candidates, start_of(task, settings, parts), "dipsvd")
    return truncated(task, parts, ranks, "dipsvd")


METHOD = Method("dipsvd", Settings, run, folds=False)


def start_of(task: Task, settings: Settings, parts: Decomposed) -> Ranks:
    """Ranks before the rest of the budget is spent: by ratios of the blocks, or the smallest where spending decides."""
    if settings.ratios == "spectrum":
        return smallest(parts.candidates, settings.align)
    return from_ratios(parts.candidates, _ratios(task, settings, parts), settings.align)


def _ratios(task: Task, settings: Settings, parts: Decomposed) -> dict[int, float]:
    numbers = [block.number for block in task.decoder.blocks]
    if settings.ratios == "uniform":
        return dict.fromkeys(numbers, settings.keep)
    sensitivity = allocation.sensitivities(task.decoder, task.ids[:SENSITIVITY_WINDOWS])
    width = task.decoder.blocks[0].weight("q").shape[0]
    scores = allocation.importance(sensitivity, parts.effective_ranks, width)
    chosen = allocation.ratios(scores, settings.keep, sign=1 if settings.ratios == "formula" else -1)
    return dict(zip(numbers, map(float, chosen), strict=True))
