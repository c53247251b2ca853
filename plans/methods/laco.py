"""LaCo, layer collapse (arXiv 2402.11187): windows of a fixed number of blocks collapse into their lowest one.

W = W_low + sum_j (W_j - W_low) over the window, accepted where the cosine of the last hidden state to the original's
stays above a threshold; after a merge the search goes on below it, otherwise one block lower. The threshold is given or
searched as in `slm.py`. Windows here are disjoint; the released code may collapse a collapsed block again.
"""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as settings_dataclass

from foldrank.edits.base import Phase
from foldrank.plans.depth.windows import Bounds, Outcome, Similarity, Trial, Window
from foldrank.plans.method import Method, Result, Task
from foldrank.plans.methods import slm


@settings_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Settings(slm.Merging):
    """`window`: blocks that collapse into one."""

    window: Annotated[int, Field(ge=2)] = 4


def fixed_windows(similarity: Similarity, bounds: Bounds, *, threshold: float, window: int) -> Outcome:
    """Collapse windows of one size from the top down wherever similarity allows."""
    committed: list[Window] = []
    trials: list[Trial] = []
    for run in bounds.runs:
        high = run[-1]
        while high - window + 1 >= run[0]:
            candidate = (high - window + 1, high)
            value = similarity(tuple(committed), candidate, threshold)
            trials.append(Trial(candidate, value, value > threshold, tuple(committed)))
            if value > threshold:
                committed.append(candidate)
            high -= window if value > threshold else 1
    return Outcome(tuple(committed), tuple(trials))


def run(task: Task, settings: Settings) -> Result:
    """Collapse windows. Raises as `slm.run`."""
    as_slm = slm.Settings(rule="rdsc", **{f.name: getattr(settings, f.name) for f in fields(slm.Merging)})
    return slm.merged(task, as_slm, partial(fixed_windows, window=settings.window), "laco")


METHOD = Method("laco", Settings, run, phase=Phase.BLOCKS)
