"""Recovery: train what a plan stores, so that the compressed model writes as the dense one does.

Distillation: mean KL(dense || compressed) of the logits over the tokens of a text (or its features, `gradients.py`),
AdamW, cosine decay after a short warm-up. Every few steps the KL is measured on windows of the text that are never
trained on; the best state wins. Once it has not been beaten for a while, training goes on from it at a lower rate, and
at last stops. The untrained plan is a candidate: recovery never makes the held-out KL worse.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch

from foldrank.edits.base import BesideEdit, Phase, adapter_factors
from foldrank.planfile.document import Keep, Step
from foldrank.planfile.plan import Plan
from foldrank.plans.bits.again import rounded_again
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.shelf import MemoryShelf, Shelf
from foldrank.plans.training.adapters import DENSE, RATES, ROUNDED, Kind, adapter
from foldrank.plans.training.course import Course
from foldrank.plans.training.gradients import Gradients, Target
from foldrank.plans.training.sampling import Select, batches, clusters, epochs, weights_by_loss
from foldrank.plans.training.stored import Stored
from foldrank.plans.training.teacher import Teacher
from foldrank.progress import SILENT, Progress

WINDOW = 256
PATIENCE = 3
"""Measurements without a better one after which training goes on from the best state, slower; at last it stops."""

_SMALL = 2
"""Windows in a batch where the time is short."""

MARGIN = 0.95
"""Of the time there is, after which no step begins; the rest is for the last measurement."""


@dataclass(frozen=True)
class Training:
    """`steps` of `batch` windows; measured `measured` times on `held` windows; `rate` None takes the kind's own.

    `minutes`: as many steps as fit, none begun later; `lisa`: blocks that train at a time, 0 for all.
    """

    kind: Kind
    steps: int = 300
    batch: int = 8
    measured: int = 12
    held: int = 32
    rate: float | None = None
    target: Target = "logits"
    select: Select = "random"
    lisa: int = 0
    minutes: float | None = None

    @classmethod
    def within(cls, minutes: float, kind: Kind, **options: Any) -> Training:
        """Small batches, at a rate that falls with their root, measured seldom and on little: most of a short time goes
        into steps. SmolLM2 in 4 bits, `scales`: 12 steps at half the rate took the held-out KL from 0.0787 to 0.0642;
        at the whole rate, of another plan, it rose from the fifth step to the fifteenth and went from 0.0760 to 0.0628
        in 32."""
        rate = RATES[kind] * (_SMALL / cls.batch) ** 0.5
        return cls(kind, batch=_SMALL, measured=6, held=8, minutes=minutes, rate=rate, **options)


@dataclass(frozen=True)
class Recovered:
    """The plan after training; `curve` holds (step, held-out KL in nats), step 0 first."""

    plan: Plan
    curve: tuple[tuple[int, float], ...]


def recover(
    source: Decoder, plan: Plan, ids_NT: np.ndarray, training: Training, *, seed: int = 0, text: str = "",
    teacher: Teacher | None = None, shelf: Shelf | None = None, progress: Progress = SILENT,
    clock: Callable[[], float] = time.monotonic,
) -> Recovered:
    """Train a plan on windows of token ids [N, T]; the last eighth, at most `held`, is held out. `teacher`: one that
    knows some of them already. `shelf`: where what was reached lies, should it be cut short.

    Raises ValueError where there are fewer than two windows, or nothing to train.
    """
    if len(ids_NT) < 2:
        raise ValueError(f"recovery needs two windows or more, the text gives {len(ids_NT)}")
    _check_seen(plan, training.kind, training.target)
    held = max(1, min(training.held, len(ids_NT) // 8))
    as_rounded = training.kind in ROUNDED
    stored = Stored.rounded(source, plan) if as_rounded else Stored.of(source, plan, dense=training.kind in DENSE)
    adapted = adapter(training.kind, stored, torch.Generator().manual_seed(seed))
    gradients = Gradients(stored, adapted, teacher or Teacher(source), training.target)
    run = _Run(training, gradients, ids_NT[:-held], ids_NT[-held:], seed, shelf or MemoryShelf(), clock)
    course = run.trained(progress)
    curve = tuple(course.curve)
    with torch.no_grad():
        best = {name: matrix.detach().clone() for name, matrix in adapted.apply().items()}
    changed = adapted.changed if min(curve, key=lambda point: point[1])[0] else frozenset()
    if as_rounded:
        made = stored.written(best, changed) if changed else plan
    else:
        made = rounded_again(source, stored.written(best, changed), ids_NT[:-held], seed=seed, progress=progress)
    return Recovered(_described(made, training, curve, ids_NT.size, seed, text), curve)


def _check_seen(plan: Plan, kind: Kind, target: Target) -> None:
    """An adapter's pairs are not the plan's to train. Nor are scales where it is not seen whose they are."""
    if any(step.method == "merge" for step in plan.document.steps):
        raise ValueError("recovery aims at the checkpoint without the adapter that merge put into it; merge with peft, "
                         "and give the merged model")
    if kind in ROUNDED and any(edit.phase is Phase.SHARING for edit in plan.edits):
        raise ValueError(f"recover {kind}: it is not seen that blocks share weights; take factors")
    if target != "logits" and any(edit.phase in (Phase.NORMS, Phase.ROTATION) for edit in plan.edits):
        raise ValueError(f"recovery towards {target}: features of a stream that was rotated or has lost its mean are "
                         "none of the dense model's; take logits")
    beside = [edit for edit in plan.edits if isinstance(edit, BesideEdit)]
    if any(edit.factors == adapter_factors(edit.site) for edit in beside):
        raise ValueError("recovery does not see the adapter beside the weights; recover first, then add it")
    if beside and kind == "scales":
        raise ValueError("recover scales: pairs beside the weights make up for what rounding lost; take lora")


@dataclass(frozen=True)
class _Run:
    """One recovery: windows it trains on, and windows `held` out."""

    training: Training
    gradients: Gradients
    ids: np.ndarray
    held: np.ndarray
    seed: int
    shelf: Shelf
    clock: Callable[[], float]

    def trained(self, progress: Progress) -> Course:
        """Train to the end; the best state is in the parameters then."""
        start, training = self.clock(), self.training
        course = Course(self.gradients.adapted, training.rate or RATES[training.kind], training.steps, self.seed,
                        training.lisa)
        drawn = self._drawn()
        if not course.resume(self.shelf):
            since = self.clock()
            course.measured(self.gradients.loss(self.held), PATIENCE)
            if training.minutes is not None:
                course.steps = self._fitting(self.clock() - start, self.clock() - since)
            course.put(self.shelf, self.clock() - start)
        start -= course.seconds
        every = max(1, course.steps // training.measured)
        progress.start("recovery", course.steps)
        progress.advance("recovery", course.step)
        going = course.step < course.steps
        for rows in islice(drawn, course.step, None):
            if not going:
                break
            self.gradients.backward(self.ids[rows])
            course.advance()
            progress.advance("recovery")
            late = training.minutes is not None and self.clock() - start > MARGIN * 60 * training.minutes
            if course.step % every == 0 or course.step == course.steps or late:
                if not course.measured(self.gradients.loss(self.held), PATIENCE) or late:
                    course.steps = course.step
                going = course.step < course.steps
                course.put(self.shelf, self.clock() - start)
        course.put_back()
        progress.finish("recovery")
        return course

    def _fitting(self, spent: float, measuring: float) -> int:
        """Steps for which there is time, by a second pass over a batch (the first finds everything cold); no parameter
        changes."""
        training, since = self.training, 0.0
        for first in (0, training.batch):
            since = self.clock()
            rows = np.arange(first, first + training.batch) % len(self.ids)
            self.gradients.backward(self.ids[rows])
        each = max(self.clock() - since, 1e-9)
        for parameter in self.gradients.adapted.parameters.values():
            parameter.grad = None
        left = MARGIN * 60 * (training.minutes or 0.0) - spent - 2 * each - training.measured * measuring
        return max(1, int(left / each))

    def _drawn(self) -> Iterator[np.ndarray]:
        """Rows of each batch."""
        windows, batch = len(self.ids), self.training.batch
        if self.training.select == "rs2":
            return epochs(windows, batch, self.seed)
        return batches(windows, batch, self.seed, self._weights() if self.training.select == "paser" else None)

    def _weights(self) -> np.ndarray:
        """Of every window, by what the untrained plan loses in its cluster."""
        source = self.gradients.source
        means = np.concatenate([source.embed(row[None]).mean(dim=1).float().cpu().numpy() for row in self.ids])
        return weights_by_loss(clusters(means, self.seed), lambda rows: self.gradients.loss(self.ids[rows]), self.seed)


def _described(
    plan: Plan, training: Training, curve: tuple[tuple[int, float], ...], tokens: int, seed: int, text: str
) -> Plan:
    """The plan with a step that says how it was trained, and what that gave."""
    settings: dict[str, Any] = {
        "kind": training.kind, "steps": curve[-1][0], "batch": training.batch, "tokens": tokens, "seed": seed,
        "rate": training.rate or RATES[training.kind], "text": text, **_unusual(training),
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


def _unusual(training: Training) -> Mapping[str, Any]:
    """Settings that are not as usual."""
    usual = Training(training.kind)
    return {name: value for name in ("target", "select", "lisa", "minutes")
            if (value := getattr(training, name)) != getattr(usual, name)}
