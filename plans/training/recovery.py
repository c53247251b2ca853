"""Recovery: train what a plan stores, so that the compressed model writes as the dense one does.

Distillation: mean KL(dense || compressed) of the logits over the tokens of a text, AdamW, cosine decay after a short
warm-up. Every few steps the same KL is measured on windows of the text that are never trained on; the best state wins.
Once it has not been beaten for a while, training goes on from it at a lower rate, and at last stops. The untrained plan
is a candidate: recovery never makes the held-out KL worse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldrank.planfile.document import Keep, Step
from foldrank.planfile.plan import Plan
from foldrank.plans.bits.again import rounded_again
from foldrank.plans.models.block import Block
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.models.words import Words
from foldrank.plans.solver.meter import Meter
from foldrank.plans.training.adapters import RATES, Adapter, Kind, adapter
from foldrank.plans.training.stored import Stored
from foldrank.plans.training.teacher import Teacher
from foldrank.progress import SILENT, Progress, track

WINDOW = 256
PATIENCE = 3
"""Measurements without a better one after which training goes on from the best state, slower; at last it stops."""

SLOWER, LOWERED = 0.2, 2
"""What the learning rate is multiplied by then, and how often: a plan that lost little is soon trained too fast."""


@dataclass(frozen=True)
class Training:
    """`steps` of `batch` windows; measured `measured` times on `held` windows; `rate` None takes the kind's own."""

    kind: Kind
    steps: int = 300
    batch: int = 8
    measured: int = 12
    held: int = 32
    rate: float | None = None


@dataclass(frozen=True)
class Recovered:
    """The plan after training; `curve` holds (step, held-out KL in nats), step 0 first."""

    plan: Plan
    curve: tuple[tuple[int, float], ...]


def recover(
    source: Decoder, plan: Plan, ids_NT: np.ndarray, training: Training, *, seed: int = 0, text: str = "",
    teacher: Teacher | None = None, progress: Progress = SILENT,
) -> Recovered:
    """Train a plan on windows of token ids [N, T]; the last eighth, at most `held`, is held out. `teacher`: one that
    knows some of them already.

    Raises ValueError where there are fewer than two windows, or nothing to train.
    """
    if len(ids_NT) < 2:
        raise ValueError(f"recovery needs two windows or more, the text gives {len(ids_NT)}")
    held = max(1, min(training.held, len(ids_NT) // 8))
    stored = Stored.of(source, plan, dense=training.kind != "factors")
    torch_generator = torch.Generator().manual_seed(seed)
    adapted = adapter(training.kind, stored, torch_generator)
    meter = Meter.of(source, ids_NT[-held:])
    teacher, random = teacher or Teacher(source), np.random.default_rng(seed)
    best, curve = _train(stored, adapted, ids_NT[:-held], teacher, meter, training, random, progress)
    changed = adapted.changed if min(curve, key=lambda point: point[1])[0] else frozenset()
    made = rounded_again(source, stored.written(best, changed), ids_NT[:-held], seed=seed, progress=progress)
    return Recovered(_described(made, training, curve, ids_NT.size, seed, text), curve)


def _train(
    stored: Stored, adapted: Adapter, ids_NT: np.ndarray, teacher: Teacher, meter: Meter, training: Training,
    random: np.random.Generator, progress: Progress,
) -> tuple[dict[str, Tensor], tuple[tuple[int, float], ...]]:
    rate, lowered = training.rate or RATES[training.kind], 0
    optimizer, schedule = _optimizer(adapted, rate, training.steps)
    kept = _taken(adapted)
    curve = [(0, _held_out(stored, _matrices(adapted), meter))]
    since = 0
    every = max(1, training.steps // training.measured)
    for step in track(range(1, training.steps + 1), "recovery", training.steps, progress):
        rows = random.choice(len(ids_NT), size=min(training.batch, len(ids_NT)), replace=False)
        optimizer.zero_grad()
        ids = ids_NT[np.sort(rows)]
        with torch.enable_grad():
            _distillation(stored, stored.blocks(adapted.apply()), ids, teacher.words(ids)).backward()
        torch.nn.utils.clip_grad_norm_(adapted.parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % every == 0 or step == training.steps:
            lowest = min(loss for _, loss in curve)
            curve.append((step, _held_out(stored, _matrices(adapted), meter)))
            since += 1
            if curve[-1][1] < lowest:
                kept, since = _taken(adapted), 0
            elif since == PATIENCE:
                if lowered == LOWERED:
                    break
                lowered, since = lowered + 1, 0
                _put_back(adapted, kept)
                optimizer, schedule = _optimizer(adapted, rate * SLOWER**lowered, training.steps - step)
    _put_back(adapted, kept)
    return _matrices(adapted), tuple(curve)


def _optimizer(adapted: Adapter, rate: float, steps: int) -> tuple[torch.optim.Optimizer, Any]:
    """AdamW and its schedule for so many steps."""
    optimizer = torch.optim.AdamW(adapted.parameters, lr=rate, weight_decay=0.0)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share(step, max(1, steps)))


def _taken(adapted: Adapter) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in adapted.parameters]


def _put_back(adapted: Adapter, kept: list[Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(adapted.parameters, kept, strict=True):
            parameter.copy_(value)


def _share(step: int, steps: int) -> float:
    """Of the peak learning rate: up over the first twentieth, then down a half cosine to nothing."""
    warm = max(1, steps // 20)
    return (step + 1) / warm if step < warm else 0.5 + 0.5 * math.cos(math.pi * (step - warm) / max(1, steps - warm))


def _distillation(stored: Stored, blocks: tuple[Block, ...], ids_BT: np.ndarray, wanted: Words) -> Tensor:
    """Mean KL(dense || compressed) in nats a token."""
    source = stored.source
    hidden = source.embed(ids_BT)
    for block in blocks:
        hidden = source.run(block, hidden)
    return wanted.divergence(source.logits(hidden)).sum() / ids_BT.size


def _held_out(stored: Stored, matrices: Mapping[str, Tensor], meter: Meter) -> float:
    return meter.loss(meter.start, stored.blocks(matrices))


def _matrices(adapted: Adapter) -> dict[str, Tensor]:
    with torch.no_grad():
        return {name: matrix.detach().clone() for name, matrix in adapted.apply().items()}


def _described(
    plan: Plan, training: Training, curve: tuple[tuple[int, float], ...], tokens: int, seed: int, text: str
) -> Plan:
    """The plan with a step that says how it was trained, and what that gave."""
    settings: dict[str, Any] = {
        "kind": training.kind, "steps": curve[-1][0], "batch": training.batch, "tokens": tokens, "seed": seed,
        "rate": training.rate or RATES[training.kind], "text": text,
    }
    document = plan.document
    best = min(loss for _, loss in curve)
    return replace(
        plan,
        document=replace(
            document, steps=(*document.steps, Step("recover", settings, Keep(None, 1.0))),
            predicted={**document.predicted, "recover.kl_before": curve[0][1], "recover.kl_after": best},
        ),
        diagnostics={**(plan.diagnostics or {}),
                     "recovery": [{"step": step, "kl_nats": loss} for step, loss in curve]},
    )
