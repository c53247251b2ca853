"""Numbers that a plan holds, made anew: after recovery they are those of weights that are no more. So are the pairs
beside them, which make up for what their rounding lost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from foldrank.edits import Edit
from foldrank.edits.base import BesideEdit, Phase
from foldrank.edits.storage import StorageEdit
from foldrank.planfile.plan import Plan
from foldrank.plans.bits.correcting import names_of
from foldrank.plans.bits.walk import Rounded, Rounding
from foldrank.plans.method import Task
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.simulate import apply_edits
from foldrank.progress import SILENT, Progress
from foldrank.sites import Site

TOKENS = 24_576
"""Of the text that rounding sees, at most."""


def rounded_again(
    source: Decoder, plan: Plan, ids_NT: np.ndarray, *, seed: int = 0, progress: Progress = SILENT
) -> Plan:
    """The plan with the numbers that its other edits now leave, on windows of token ids; itself where it holds none."""
    first = [edit for edit in plan.edits if edit.phase < Phase.STORAGE]
    last = [edit for edit in plan.edits if edit.phase >= Phase.STORAGE]
    storages = {part: edit.storage for edit in last if isinstance(edit, StorageEdit) and edit.held
                for part in edit.touch.writes if isinstance(part, Site)}
    ranks = {edit.site: edit.rank for edit in last if isinstance(edit, BesideEdit)
             and edit.factors == names_of(edit.site)}
    if not storages:
        return plan
    decoder = apply_edits(first, source, plan.arrays)
    ids = ids_NT[: max(1, TOKENS // ids_NT.shape[1])]
    found = Rounding().of(Task(decoder, ids, seed, source, progress), storages, ranks)
    made = [_made_again(edit, found) for edit in last]
    stale = {name for old, new in zip(last, made, strict=True) if new is not old for name in old.arrays()}
    arrays = {name: plan.arrays[name] for name in plan.arrays if name not in stale} | dict(found.arrays)
    return replace(plan, arrays=arrays, document=replace(plan.document, edits=(*first, *made)))


def _made_again(edit: Edit, found: Rounded) -> Edit:
    """The edit with the numbers that were found, or itself where none were; a pair's arrays keep their names."""
    if isinstance(edit, StorageEdit) and edit.held:
        (part,) = edit.touch.writes
        if isinstance(part, Site):
            return replace(edit, held=found.held[part])
    return edit
