"""LLM-Drop (arXiv 2406.15786): drop the attentions, the MLPs or both that turn the residual stream least.

Importance of a branch f is 1 - E[cos(x, x + f(norm(x)))] over the tokens of the calibration text, measured once on the
whole model; `which=both` drops from one ranking, as the paper's joint mode. x is the stream that the branch is added
to: an MLP's has its block's attention in it.
"""

from __future__ import annotations

import numpy as np
import torch

from foldrank.edits.base import Phase
from foldrank.plans.depth.branches import Cut, Place, Settings, Which, branches_of, cut_down, ranking, result
from foldrank.plans.depth.similarity import turned
from foldrank.plans.method import Method, Result, Task
from foldrank.plans.models.decoder import Decoder


def importances(decoder: Decoder, ids_NT: np.ndarray, which: Which) -> dict[Place, float]:
    """Importance of every branch of these kinds. Cost: two forward passes."""
    found: dict[Place, float] = {}
    hidden = decoder.embed(ids_NT)
    with torch.no_grad():
        for block in decoder.blocks:
            branches = branches_of(decoder, block.number)
            above = decoder.run(block, hidden)
            between = decoder.run(block.without("mlp"), hidden) if "mlp" in branches else above
            states = {"attention": (hidden, between), "mlp": (between, above)}
            found |= {Place(block.number, branch): turned(*states[branch]) for branch in branches
                      if which in (branch, "both")}
            hidden = above
    return found


def run(task: Task, settings: Settings) -> Result:
    """Drop them. Raises as `cut_down`."""
    return result(*ranked(task, settings, "llm_drop"))


def ranked(task: Task, settings: Settings, name: str) -> tuple[Cut, dict[Place, float]]:
    """The least important ones gone, and the importance of all. Raises as `cut_down`, in the name of a method."""
    scores = importances(task.decoder, settings.ids(task), settings.which)

    return cut_down(task, settings, settings.which, name, *ranking(scores)), scores


METHOD = Method("llm_drop", Settings, run, phase=Phase.BRANCHES)
