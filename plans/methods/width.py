"""width: MLPs keep the channels whose loss is dearest once down is refit on what stays (ours).

Two walks up the blocks. The first, over the text as the uncompressed model sees it, takes channels out of each MLP one
batch after the other (`width/channels.py`) and notes the loss at every width; these losses, times how much the model's
own loss minds an error of down (`low_rank/allocation.py`), share the budget among blocks. The second cuts from the
bottom up: with `inputs=sequential` each block's channels are chosen, and its down is refit, on what the cut blocks
below really give. Choosing is backward elimination as in ZipLM (arXiv 2302.04089), for channels of an MLP; sharing is
as in `dipsvd:ratios=closed-form`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as settings_dataclass
from torch import Tensor

from foldrank.edits.base import Phase
from foldrank.plans.low_rank.allocation import curvatures
from foldrank.plans.method import Method, Result, Task
from foldrank.plans.models.block import Block
from foldrank.plans.shelf import Finding, States, walk
from foldrank.plans.simulate.slice_mlp import sliced
from foldrank.plans.width.budget import Chosen, Mlp, Widths, even_widths, least_widths, spare, spend
from foldrank.plans.width.channels import DAMPING, Moments, order, refit, steadiest
from foldrank.plans.width.reading import moments
from foldrank.plans.width.slicing import Slicing, mlps_of, over_mlps, result
from foldrank.sites import Site

LEAST = 0.25
"""Share of its channels that every MLP keeps: losses are no forecast far from the model that they were taken on."""

LOSS_TOKENS = 8_192
"""Text for the losses that share the budget: blocks are compared by them, nothing is fitted to them."""

CURVATURE_WINDOWS = 4

BACK = 0.25
"""Share of the windows that tell how far refits may go."""


@settings_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Settings(Widths):
    """`allocate`: how the budget is shared among blocks. `inputs`: what channels are chosen and down is refit on.

    `toward`: how far the refit aims from what down would give on those inputs (0) to what it gives in the uncompressed
    model (1). `refit`: whether down is refit at all; `bias`: a vector behind down takes up what cut channels give on
    average, at one more Add a block where the model has no bias there.
    """

    allocate: Literal["loss", "uniform"] = "loss"
    inputs: Literal["sequential", "original"] = "sequential"
    toward: Annotated[float, Field(ge=0, le=1)] = 0.0
    refit: bool = True
    bias: bool = False

    def __post_init__(self) -> None:
        if self.toward and (self.inputs == "original" or not self.refit):
            raise ValueError("toward needs inputs=sequential and refit=true: nothing else aims at anything")


def run(task: Task, settings: Settings) -> Result:
    """Cut the model's MLPs. Raises ValueError where the budget asks for more than MLPs have."""
    if settings.keep == 1:
        return Result(task.decoder, edits=(), kept=1.0)
    with torch.no_grad():
        widths = _uniform(task, settings) if settings.allocate == "uniform" else _by_loss(task, settings)
        slicings = _cut(task, settings, widths)
    found = result(task, slicings)
    return replace(found, predicted={"width.narrowest": min(widths.values()), "width.widest": max(widths.values())})


METHOD = Method("width", Settings, run, phase=Phase.WIDTHS)


def _budget(task: Task, settings: Settings) -> tuple[tuple[Mlp, ...], int, int]:
    whole = task.decoder.site_parameters
    return mlps_of(task.decoder.blocks), whole, settings.numbers(whole)


def _uniform(task: Task, settings: Settings) -> Chosen:
    mlps, whole, budget = _budget(task, settings)
    return even_widths(mlps, whole, budget, settings.align)


def _by_loss(task: Task, settings: Settings) -> Chosen:
    mlps, whole, budget = _budget(task, settings)
    least = least_widths(mlps, settings.align, LEAST)
    left = spare(mlps, whole, budget, least)
    losses = _losses(task, settings, least)
    with torch.enable_grad():
        minds = curvatures(task.decoder, task.ids[:CURVATURE_WINDOWS], task.shelf, task.progress)
    weighed = {number: {width: loss * minds[Site(number, ("down",))] for width, loss in curve.items()}
               for number, curve in losses.items()}
    return spend(mlps, least, left, settings.align, weighed)


def _losses(task: Task, settings: Settings, least: Chosen) -> dict[int, dict[int, float]]:
    """By block and width: mean squared error of down's output, over the text as the uncompressed model sees it."""
    decoder, align = task.decoder, settings.align
    ids = task.ids[: max(1, LOSS_TOKENS // task.ids.shape[1])]

    def step(block: Block, states: States) -> tuple[Finding, States]:
        found, output = moments(decoder, block, states["hidden"])
        weight = block.weight("down")
        path = order(found.centred() if settings.bias else found, weight, align, least[block.number])
        values = {"widths": list(path.widths), "losses": list(path.losses)}
        return Finding(values=values), {"hidden": output}

    shelf = task.shelf.under(f"losses {align} {settings.bias} {len(ids)}")
    findings = walk(decoder.blocks, shelf, lambda: {"hidden": decoder.embed(ids)}, over_mlps(decoder, step),
                    stage="widths", device=decoder.device, progress=task.progress)
    found = {number: findings[number].values for number in least}
    return {number: dict(zip(held["widths"], held["losses"], strict=True)) for number, held in found.items()}


def _cut(task: Task, settings: Settings, widths: Chosen) -> list[Slicing]:
    """Channels, down and bias of every block, from the bottom up."""
    decoder, sequential = task.decoder, settings.inputs == "sequential"
    parts = _parts(len(task.ids))
    cut = {block.number: width for block in decoder.blocks if (width := widths.get(block.number))
           and width < len(block.weight("down"))}

    def step(block: Block, states: States) -> tuple[Finding, States]:
        hidden, aims = states["hidden"], states.get("original")
        read = [moments(decoder, block, hidden[part], aims if aims is None else aims[part], settings.toward)
                for part in parts]
        kept, down, bias = _sliced(block, [found for found, _ in read], cut[block.number], settings)
        named = {"kept": kept, "down": down, "bias": bias}
        tensors = {name: tensor for name, tensor in named.items() if tensor is not None}
        uncut = torch.cat([output for _, output in read])
        after = decoder.run(sliced(block, kept, down, bias), hidden) if sequential else uncut
        return Finding(tensors), {"hidden": after} | ({} if aims is None else {"original": uncut})

    def start() -> States:
        hidden = decoder.embed(task.ids)
        return {"hidden": hidden, **({"original": hidden} if settings.toward else {})}

    shelf = task.shelf.under(f"cut {settings} {sorted(widths.items())}")
    findings = walk(decoder.blocks, shelf, start, over_mlps(decoder, step, cut), stage="slice", device=decoder.device,
                    progress=task.progress)
    found = {number: findings[number].tensors for number in cut}
    return [Slicing(number, held["kept"], held.get("down"), held.get("bias")) for number, held in found.items()]


def _parts(windows: int) -> tuple[slice, ...]:
    """Windows that downs are fitted to, and, where there are two or more, those that are kept back."""
    back = max(1, round(BACK * windows))
    return (slice(0, windows - back), slice(windows - back, windows)) if windows > 1 else (slice(0, 1),)


def _sliced(
    block: Block, parts: Sequence[Moments], width: int, settings: Settings
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Channels that stay, and what becomes of down: fitted to all windows, as much as held on those kept back."""
    weight = block.weight("down")
    whole = parts[0].joined(parts[1]) if len(parts) > 1 else parts[0]
    fitting, *held = [found.centred() if settings.bias else found for found in (whole, *parts)]
    kept, down = order(fitting, weight, settings.align, width).kept(width), None
    if settings.refit:
        damping = steadiest(held[0], held[1], weight, kept) if len(held) > 1 else DAMPING
        down = refit(fitting, weight, kept, damping) if math.isfinite(damping) else None
    if not settings.bias:
        return kept, None if down is None else down.float(), None
    left = weight[kept].to(whole.mean) if down is None else down
    return kept, None if down is None else down.float(), (whole.target - whole.mean[kept] @ left).float()
