"""LLM-Drop (arXiv 2406.15786): drop the attentions, the MLPs or both that turn the residual stream least.

Importance of a branch f is 1 - E[cos(x, x + f(norm(x)))] over the tokens of the calibration text, measured once on the
whole model; `which=both` drops from one ranking, as the paper's joint mode. x is the stream that the branch is added
to: an MLP's has its block's attention in it. With `criterion`, another measure of `criteria/judging.py` instead.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as settings_dataclass
from torch import Tensor

from foldrank.edits.base import Phase
from foldrank.plans.criteria.judging import Criterion, Unit, judge
from foldrank.plans.depth import branches
from foldrank.plans.depth.branches import Cut, Place, Which, branches_of, cut_down, ranking, result
from foldrank.plans.method import Method, Result, Task
from foldrank.plans.models.decoder import Decoder


@settings_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Settings(branches.Settings):
    """`criterion`: what a branch is worth by."""

    criterion: Criterion = "similarity"


def importances(
    decoder: Decoder, ids_NT: np.ndarray, which: Which, criterion: Criterion = "similarity", seed: int = 0
) -> dict[Place, float]:
    """Importance of every branch of these kinds. Cost: two forward passes, and what the criterion takes."""
    judged, found, hidden = judge(criterion, decoder, ids_NT, seed), dict[Place, float](), decoder.embed(ids_NT)
    with torch.no_grad():
        for position, block in enumerate(decoder.blocks):
            held = branches_of(decoder, block.number)
            above = decoder.run(block, hidden)
            between = decoder.run(block.without("mlp"), hidden) if "mlp" in held else above
            units = {
                "attention": Unit(position, hidden, between, above,
                                  partial(decoder.run, block.without("attention"), hidden)),
                "mlp": Unit(position, between, above, above, partial(_same, between))}
            found |= {Place(block.number, branch): judged(units[branch])
                      for branch in held if which in (branch, "both")}
            hidden = above
    return found


def _same(hidden_NTC: Tensor) -> Tensor:
    return hidden_NTC


def run(task: Task, settings: Settings) -> Result:
    """Drop them. Raises as `cut_down`."""
    return result(*ranked(task, settings, "llm_drop", settings.criterion))


def ranked(
    task: Task, settings: branches.Settings, name: str, criterion: Criterion = "similarity"
) -> tuple[Cut, dict[Place, float]]:
    """The least important ones gone, and the importance of all. Raises as `cut_down`, in the name of a method."""
    scores = importances(task.decoder, settings.ids(task), settings.which, criterion, task.seed)
    return cut_down(task, settings, settings.which, name, *ranking(scores)), scores


METHOD = Method("llm_drop", Settings, run, phase=Phase.BRANCHES)
