"""CFSP (arXiv 2409.13199), MLPs: blocks that turn their input least lose most channels; one pass over the text.

Importance of a block: 1 - cosine of what enters it with what leaves it, standardised over blocks and softened by a
sigmoid; the share that a block loses is proportional to 1 - that, scaled so that the budget holds. Channels stay by
E|x_j| |W_down[j, :]|. Written from the abstract: the released code may soften otherwise. Without its fine-tuning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from foldrank.edits.base import Phase
from foldrank.plans.method import Method, Result, Task
from foldrank.plans.models.block import Block
from foldrank.plans.shelf import Finding, States, walk
from foldrank.plans.width.budget import Chosen, Mlp, Widths, by_score, least_widths, spare, spend
from foldrank.plans.width.reading import channel_statistics
from foldrank.plans.width.slicing import Slicing, mlps_of, over_mlps, result

STEPS = 60
"""Halvings of the interval in which the scale of the losses lies."""


def run(task: Task, settings: Widths) -> Result:
    """Cut the model's MLPs. Raises ValueError where the budget asks for more than MLPs have."""
    decoder = task.decoder
    if settings.keep == 1:
        return Result(decoder, edits=(), kept=1.0)

    def step(block: Block, states: States) -> tuple[Finding, States]:
        found, output = channel_statistics(decoder, block, states["hidden"])
        scores = found.size * block.weight("down").double().norm(dim=1)
        return Finding({"scores": scores}, {"importance": 1 - found.cosine}), {"hidden": output}

    with torch.no_grad():
        found = walk(decoder.blocks, task.shelf.under("importance"), lambda: {"hidden": decoder.embed(task.ids)},
                     over_mlps(decoder, step), stage="importance", device=decoder.device, progress=task.progress)
        widths = _widths(task, settings, found)
        return result(task, [
            Slicing(number, found[number].tensors["scores"].argsort(descending=True)[:width].sort().values)
            for number, width in widths.items()])


METHOD = Method("cfsp", Widths, run, phase=Phase.WIDTHS)


def _widths(task: Task, settings: Widths, found: Mapping[int, Finding]) -> Chosen:
    """By importance; what whole steps of `align` leave over goes to the dearest channels."""
    mlps, whole = mlps_of(task.decoder.blocks), task.decoder.site_parameters
    budget = settings.numbers(whole)
    spare(mlps, whole, budget, least_widths(mlps, settings.align, 0.0))  # says so where nothing fits
    importance = torch.tensor([found[mlp.block].values["importance"] for mlp in mlps], dtype=torch.float64)
    spread = importance.std() if len(mlps) > 1 else importance.new_ones(())
    lost = (1 - torch.sigmoid((importance - importance.mean()) / spread.clamp_min(1e-30))).tolist()
    low, high = 0.0, 1 / min(lost)
    for _ in range(STEPS):
        middle = (low + high) / 2
        fits = _numbers(mlps, whole, _at(mlps, lost, middle, settings.align)) <= budget
        low, high = (low, middle) if fits else (middle, high)
    start = _at(mlps, lost, high, settings.align)
    losses = {number: by_score((held.tensors["scores"] / held.tensors["scores"].sum()).tolist(), settings.align)
              for number, held in found.items() if number in start}
    return spend(mlps, start, budget - _numbers(mlps, whole, start), settings.align, losses)


def _at(mlps: Sequence[Mlp], lost: Sequence[float], scale: float, align: int) -> Chosen:
    """Widths where each MLP loses this multiple of its share."""
    return {mlp.block: least_widths([mlp], align, max(0.0, 1 - scale * share))[mlp.block]
            for mlp, share in zip(mlps, lost, strict=True)}


def _numbers(mlps: Sequence[Mlp], whole: int, widths: Chosen) -> int:
    return whole - sum((mlp.channels - widths[mlp.block]) * mlp.price for mlp in mlps)
