"""FLAP (arXiv 2312.11983), MLPs: channels that hardly fluctuate leave, and a bias stands for what they gave on average.

Score of channel j: Var(x_j) |W_down[j, :]|^2 over the text, standardised within the block; one threshold over the
model, in steps of `align` channels; bias: E[x_cut] W_down[cut]. The paper scores heads likewise, which stay here.
"""

from __future__ import annotations

import torch

from foldrank.edits.base import Phase
from foldrank.plans.method import Method, Result, Task
from foldrank.plans.models.block import Block
from foldrank.plans.shelf import Finding, States, walk
from foldrank.plans.width.budget import Widths, by_score, least_widths, spare, spend
from foldrank.plans.width.reading import ChannelStatistics, channel_statistics
from foldrank.plans.width.slicing import Slicing, mlps_of, over_mlps, result


def scores(block: Block, found: ChannelStatistics) -> torch.Tensor:
    """Of each channel [I], standardised."""
    fluctuation = (found.square - found.mean.square()).clamp_min(0.0)
    raw = fluctuation * block.weight("down").double().square().sum(dim=1)
    return (raw - raw.mean()) / raw.std().clamp_min(1e-30)


def run(task: Task, settings: Widths) -> Result:
    """Cut the model's MLPs. Raises ValueError where the budget asks for more than MLPs have."""
    decoder = task.decoder
    if settings.keep == 1:
        return Result(decoder, edits=(), kept=1.0)

    def step(block: Block, states: States) -> tuple[Finding, States]:
        found, output = channel_statistics(decoder, block, states["hidden"])
        return Finding({"scores": scores(block, found), "mean": found.mean}), {"hidden": output}

    mlps, whole = mlps_of(decoder.blocks), decoder.site_parameters
    least = least_widths(mlps, settings.align, 0.0)
    left = spare(mlps, whole, settings.numbers(whole), least)
    with torch.no_grad():
        found = walk(decoder.blocks, task.shelf.under("fluctuation"), lambda: {"hidden": decoder.embed(task.ids)},
                     over_mlps(decoder, step), stage="fluctuation", device=decoder.device, progress=task.progress)
        losses = {number: by_score(found[number].tensors["scores"].tolist(), settings.align) for number in least}
        widths = spend(mlps, least, left, settings.align, losses)
        return result(task, [_slicing(decoder.block(number), found[number], width) for number, width in widths.items()])


METHOD = Method("flap", Widths, run, phase=Phase.WIDTHS)


def _slicing(block: Block, held: Finding, width: int) -> Slicing:
    scores, mean, weight = held.tensors["scores"].cpu(), held.tensors["mean"].cpu(), block.weight("down").cpu()
    order = scores.argsort(descending=True, stable=True)
    cut = order[width:]
    return Slicing(block.number, order[:width].sort().values, bias=(mean[cut] @ weight[cut].double()).float())
