"""Numbers that a plan holds, made anew: after recovery they are those of weights that are no more. So are the pairs
beside them, which make up for what their rounding lost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

import numpy as np

from foldrank.edits.base import BesideEdit, Phase
from foldrank.edits.storage import StorageEdit
from foldrank.planfile.document import Step
from foldrank.planfile.plan import Plan
from foldrank.plans.bits.correcting import names_of
from foldrank.plans.bits.holding import holding, site_of
from foldrank.plans.bits.settings import Settings
from foldrank.plans.bits.walk import Rounding
from foldrank.plans.method import Task
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.simulate import apply_edits
from foldrank.progress import SILENT, Progress

TOKENS = 24_576
"""Of the text that rounding sees, at most."""


def rounded_again(
    source: Decoder, plan: Plan, ids_NT: np.ndarray, *, seed: int = 0, progress: Progress = SILENT
) -> Plan:
    """The plan with the numbers that its other edits now leave, on windows of token ids; itself where it holds none."""
    storages = {site: edit.storage for edit in plan.edits if isinstance(edit, StorageEdit) and edit.held
                if (site := site_of(edit)) is not None}
    ranks = {edit.site: edit.rank for edit in plan.edits if isinstance(edit, BesideEdit)
             and edit.factors == names_of(edit.site)}
    if not storages:
        return plan
    first = [edit for edit in plan.edits if edit.phase < Phase.STORAGE]
    decoder = apply_edits(first, source, plan.arrays)
    ids = ids_NT[: max(1, TOKENS // ids_NT.shape[1])]
    found = rounding_of(plan.document.steps).of(Task(decoder, ids, seed, source, progress), storages, ranks)
    return holding(plan, found.held, found.arrays)


def rounding_of(steps: Iterable[Step]) -> Rounding:
    """How the last `quantize` of a plan's steps rounds; as by default where there is none, as after `auto`."""
    known = {setting.name for setting in fields(Settings)}
    asked = [step.settings for step in steps if step.method == "quantize"]
    given = {name: value for name, value in asked[-1].items() if name in known} if asked else {}
    return Settings(**given).careful  # type: ignore[arg-type]
