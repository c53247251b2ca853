"""FLAP (arXiv 2312.11983), MLPs: channels that hardly fluctuate leave, and a bias stands for what they gave on average.

Score of channel j: Var(x_j) |W_down[j, :]|^2 over the text, standardised within the block; one threshold over the
model, in steps of `align` channels; bias: E[x_cut] W_down[cut]. The paper scores heads likewise, which stay here. With
`criterion`, channels leave by another measure of `criteria/channels.py`; what is in nats is not standardised.
"""

from __future__ import annotations

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as settings_dataclass

from foldrank.edits.base import Phase
from foldrank.plans.criteria.channels import IN_NATS, channel_judge
from foldrank.plans.criteria.judging import Criterion
from foldrank.plans.method import Method, Result, Task
from foldrank.plans.models.block import Block
from foldrank.plans.shelf import Finding, States, walk
from foldrank.plans.width.budget import Widths, by_score, least_widths, spare, spend
from foldrank.plans.width.reading import channel_statistics
from foldrank.plans.width.slicing import Slicing, mlps_of, over_mlps, result


@settings_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Settings(Widths):
    """`criterion`: what a channel is worth by."""

    criterion: Criterion = "fluctuation"


def standardised(scores_I: torch.Tensor) -> torch.Tensor:
    """Of one block's channels, so that those of another may be compared with them."""
    return (scores_I - scores_I.mean()) / scores_I.std().clamp_min(1e-30)


def run(task: Task, settings: Settings) -> Result:
    """Cut the model's MLPs. Raises ValueError where the budget asks for more than MLPs have."""
    decoder = task.decoder
    if settings.keep == 1:
        return Result(decoder, edits=(), kept=1.0)

    mlps, whole, criterion = mlps_of(decoder.blocks), decoder.site_parameters, settings.criterion
    least = least_widths(mlps, settings.align, 0.0)
    left = spare(mlps, whole, settings.numbers(whole), least)
    judged = channel_judge(criterion, decoder, task.ids, task.seed)

    def step(block: Block, states: States) -> tuple[Finding, States]:
        found, output = channel_statistics(decoder, block, states["hidden"], turned=criterion == "similarity")
        scores = judged(block, found)
        scores = scores if criterion in IN_NATS else standardised(scores)
        return Finding({"scores": scores, "mean": found.mean}), {"hidden": output}

    with torch.no_grad():
        found = walk(decoder.blocks, task.shelf.under(criterion), lambda: {"hidden": decoder.embed(task.ids)},
                     over_mlps(decoder, step), stage=criterion, device=decoder.device, progress=task.progress)
        losses = {number: by_score(found[number].tensors["scores"].tolist(), settings.align) for number in least}
        widths = spend(mlps, least, left, settings.align, losses)
        return result(task, [_slicing(decoder.block(number), found[number], width) for number, width in widths.items()])


METHOD = Method("flap", Settings, run, phase=Phase.WIDTHS)


def _slicing(block: Block, held: Finding, width: int) -> Slicing:
    scores, mean, weight = held.tensors["scores"].cpu(), held.tensors["mean"].cpu(), block.weight("down").cpu()
    order = scores.argsort(descending=True, stable=True)
    cut = order[width:]
    return Slicing(block.number, order[:width].sort().values, bias=(mean[cut] @ weight[cut].double()).float())
