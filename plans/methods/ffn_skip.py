"""FFN-SkipLLM (arXiv 2404.03865) in a static form: drop the MLPs whose input and output agree most.

Agreement is E[cos(x, x + mlp(norm(x)))] over the tokens of the calibration text. The paper decides per token and spares
the first and last blocks ("cold regions"); here the choice is made once, the cold regions are blocks, and the cache
stays as it is: every attention stays.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as settings_dataclass

from foldrank.edits.base import Phase
from foldrank.plans.criteria.judging import Criterion
from foldrank.plans.depth.branches import Budget, cut_down, ranking, result
from foldrank.plans.method import Method, Result, Task
from foldrank.plans.methods.llm_drop import importances


@settings_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Settings(Budget):
    """`protect_first`, `protect_last`: blocks at either end whose MLPs stay. `criterion`: what one is worth by."""

    protect_first: Annotated[int, Field(ge=0)] = 1
    protect_last: Annotated[int, Field(ge=0)] = 1
    criterion: Criterion = "similarity"


def run(task: Task, settings: Settings) -> Result:
    """Drop them. Raises as `cut_down`."""
    scores = importances(task.decoder, settings.ids(task), "mlp", settings.criterion, task.seed)
    numbers = [block.number for block in task.decoder.blocks]
    spared = {*numbers[: settings.protect_first], *numbers[len(numbers) - settings.protect_last :]}
    return result(cut_down(task, settings, "mlp", "ffn_skip", *ranking(scores), spared), scores)


METHOD = Method("ffn_skip", Settings, run, phase=Phase.BRANCHES)
