"""DipSVD, dual-importance protected SVD (June 2025): every linear of every block becomes a low-rank pair.

Local importance: the metric under which a weight is truncated (`whitening.py`, `truncation.py`, in `low_rank/` as all
files named here). Global importance: how the budget is shared (`ratios`):
    uniform      the same ratio for every block
    released     heuristic, more where sensitivity and effective rank are low   (the released code)
    formula      heuristic, more where they are high                            (the formula in notes on the paper)
    bayesian     per block, by a search over a measured objective               (`bayesian.py`)
    spectrum     per site: rank by rank to whoever gains most relative loss per number (not in the paper)
    closed-form  per site: water-filling on losses times the loss's sensitivity to the site's output (`waterfill.py`;
                 not in the paper; the default)
Which sign of the heuristic is right depends on the model. Perplexity over dense at keep 0.8 (plain, joint), uniform /
released / formula / spectrum: specs-5m (align 16) 1.058 / 1.065 / 1.022 / 1.013; a compact model of 300K parameters
(align 2) 2.77 / 2.24 / 4.86 / 2.78. `closed-form` was ahead of `spectrum` wherever both ran: docs/methods.md.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as settings_dataclass
from torch import Tensor

from foldrank.edits.base import Phase
from foldrank.plans.low_rank import allocation, bayesian
from foldrank.plans.low_rank.decomposing import Budget, Decomposed, by_input, decompose, described, within
from foldrank.plans.low_rank.factoring import factored
from foldrank.plans.low_rank.ranks import Ranks, from_ratios, smallest
from foldrank.plans.low_rank.refit import Fit, fitted
from foldrank.plans.low_rank.waterfill import water_fill, weighted
from foldrank.plans.low_rank.whitening import Metric, Whitening, metric
from foldrank.plans.method import Method, Result, Task

SENSITIVITY_WINDOWS = 4


@settings_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Settings(Budget):
    """`keep`: share of the blocks' weights left, at most. `packed`: factor q, k, v (and gate, up) jointly or apart.

    `inputs`, `refit` and `feed_forward` (beta) as in `refit.py`; `evaluations` and `objective` are of bayesian ratios.
    """

    packed: Literal["joint", "split"] = "joint"
    whitening: Whitening = "plain"
    top_share: Annotated[float, Field(ge=0, le=1)] = 0.03
    weight: Annotated[float, Field(gt=0)] = 30.0
    ratios: Literal["uniform", "released", "formula", "bayesian", "spectrum", "closed-form"] = "closed-form"
    objective: bayesian.Objective = "perplexity"
    evaluations: Annotated[int, Field(ge=1)] = 180
    inputs: Literal["original", "sequential"] = "original"
    refit: bool = False
    feed_forward: Annotated[float, Field(ge=0, le=1)] = 0.0

    def __post_init__(self) -> None:
        if self.feed_forward and self.inputs == "original":
            raise ValueError("feed_forward needs inputs=sequential: original inputs carry no error")

    def metric(self, gram_II: Tensor) -> Metric:
        """The metric of an input."""
        return metric(gram_II, self.whitening, top_share=self.top_share, weight=self.weight)

    @property
    def fit(self) -> Fit:
        """What is done once ranks are known."""
        return Fit(self.inputs == "sequential", self.feed_forward, self.refit)


def run(task: Task, settings: Settings) -> Result:
    """Factor the model. Raises ValueError where the budget is below the smallest ranks."""
    if settings.keep == 1:
        return Result(task.decoder, edits=(), kept=1.0)
    heuristic = settings.ratios in ("released", "formula")
    parts = decompose(task, by_input(settings.metric), settings.packed, outputs=heuristic)
    ranks = choose_ranks(task, settings, parts)
    pairs = parts.pairs(ranks)
    if settings.fit.needed:
        pairs = fitted(task, pairs, settings.packed, settings.fit, settings.metric)
    return described(factored(task, pairs), parts.candidates, ranks, "dipsvd")


def ready(settings: Settings) -> None:
    """Raises ProviderUnavailable where the search for ratios could not run."""
    if settings.ratios == "bayesian" and settings.keep != 1:
        bayesian.check_installed()


METHOD = Method("dipsvd", Settings, run, phase=Phase.WEIGHTS, ready=ready)


def choose_ranks(task: Task, settings: Settings, parts: Decomposed) -> Ranks:
    """Rank of every site, within the budget. Raises ValueError where nothing fits it."""
    def by_block(ratios_L: np.ndarray) -> Ranks:
        named = {block.number: float(r) for block, r in zip(task.decoder.blocks, ratios_L, strict=True)}
        start = from_ratios(parts.candidates, named, settings.align)
        return within(settings, task, parts.candidates, start, "dipsvd")

    match settings.ratios:
        case "uniform":
            return by_block(np.full(len(task.decoder.blocks), settings.keep))
        case "released" | "formula":
            return by_block(_heuristic(task, settings, parts))
        case "bayesian":
            return by_block(bayesian.optimised(
                task, parts, by_block, settings.keep, objective=settings.objective, trials=settings.evaluations))
        case "spectrum":
            return within(settings, task, parts.candidates, smallest(parts.candidates, settings.align), "dipsvd")
        case "closed-form":
            curvatures = allocation.curvatures(task.decoder, _few(task), task.shelf, task.progress)
            candidates = weighted(parts.candidates, parts.losses, curvatures)
            start = water_fill(candidates, settings.numbers(task), settings.align)
            return within(settings, task, candidates, start, "dipsvd")


def _few(task: Task) -> np.ndarray:
    return task.ids[:SENSITIVITY_WINDOWS]


def _heuristic(task: Task, settings: Settings, parts: Decomposed) -> np.ndarray:
    sensitivity = allocation.sensitivities(task.decoder, _few(task), task.shelf, task.progress)
    width = task.decoder.blocks[0].weight("q").shape[0]
    scores = allocation.importance(sensitivity, parts.effective_ranks, width)
    return allocation.ratios(scores, settings.keep, sign=1 if settings.ratios == "formula" else -1)
