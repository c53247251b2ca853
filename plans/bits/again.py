"""Numbers that a plan holds, made anew: after recovery they are those of weights that are no more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from foldrank.edits.base import Phase
from foldrank.edits.storage import StorageEdit
from foldrank.planfile.plan import Plan
from foldrank.plans.bits.walk import Rounding
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
    last = [edit for edit in plan.edits if isinstance(edit, StorageEdit)]
    storages = {part: edit.storage for edit in last if edit.held for part in edit.touch.writes
                if isinstance(part, Site)}
    if not storages:
        return plan
    decoder = apply_edits(first, source, plan.arrays)
    ids = ids_NT[: max(1, TOKENS // ids_NT.shape[1])]
    found = Rounding().of(Task(decoder, ids, seed, source, progress), storages)
    edits, stale = [*first], set[str]()
    for edit in last:
        (part,) = edit.touch.writes if edit.held else (None,)
        if isinstance(part, Site):
            stale.update(edit.arrays())
            edits.append(replace(edit, held=found.held[part]))
        else:
            edits.append(edit)
    arrays = {name: plan.arrays[name] for name in plan.arrays if name not in stale} | dict(found.arrays)
    return replace(plan, arrays=arrays, document=replace(plan.document, edits=tuple(edits)))
