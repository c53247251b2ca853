"""Figures of plans after recovery. What equal plans and cells of one seed share is trained, drawn and asked once."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from foldrank.benchmarks.quality_cells import Cell
from foldrank.benchmarks.quality_judge import Judge
from foldrank.digests import sha256_array
from foldrank.model.checkpoint import Checkpoint
from foldrank.planfile.plan import Plan
from foldrank.plans.simulate import apply_edits
from foldrank.plans.training.adapters import Kind
from foldrank.plans.training.recovering import Recovery, recovery_windows
from foldrank.plans.training.recovery import Training, recover
from foldrank.plans.training.teacher import Teacher

TEACHER_ROOM = 1 << 30
"""Numbers that the dense model's answers to training windows may take: 4 GiB."""


@dataclass(frozen=True)
class Recoveries:
    """Recovery of one model's plans: on so many tokens drawn from a text (None: the calibration text), for so many
    steps. `trained`: what it made of plans; `drawn`: the windows of a seed."""

    checkpoint: Checkpoint
    dense: Judge
    text: Path | None
    tokens: int
    steps: int
    trained: dict[tuple[Any, ...], dict[str, Any]] = field(default_factory=dict)
    drawn: dict[int, np.ndarray] = field(default_factory=dict)

    def figures(self, cell: Cell, plan: Plan) -> dict[str, Any]:
        """Figures of the plan after recovery, and what that took. Later cells of a seed find the teacher's answers
        there: their seconds are less than recovery alone takes."""
        arrays = sorted((name, sha256_array(array)) for name, array in plan.arrays.items())
        key = (cell.seed, cell.recover, repr(plan.edits), *arrays)
        if key not in self.trained:
            self.trained[key] = self._figures(cell, plan)
        return self.trained[key]

    @cached_property
    def teacher(self) -> Teacher:
        """All cells of a seed train on the same windows."""
        return Teacher(self.dense.decoder, room=TEACHER_ROOM)

    def training(self, kind: Kind) -> Training:
        """Held-out windows are read no more often than every eighth step: reading them costs about as much as a step
        and a half."""
        usual = Training(kind)
        return Training(kind, steps=self.steps, measured=max(1, min(usual.measured, self.steps // 8)))

    def _figures(self, cell: Cell, plan: Plan) -> dict[str, Any]:
        start = time.perf_counter()
        kind: Kind = cell.recover  # type: ignore[assignment]
        if cell.seed not in self.drawn:
            asked = Recovery(kind, self.text, self.tokens)
            self.drawn[cell.seed] = recovery_windows(self.checkpoint, asked, cell.seed).ids
        ids, source = self.drawn[cell.seed], self.dense.decoder
        done = recover(source, plan, ids, self.training(kind), seed=cell.seed, teacher=self.teacher)
        seconds = time.perf_counter() - start
        left = apply_edits(done.plan.edits, source, done.plan.arrays)
        return {**self.dense.figures(left), "recovery_s": seconds, "recovery_tokens": int(ids.size),
                "recovery_steps": done.curve[-1][0]}
