"""A plan that says what stands at a site once: a matrix whose numbers in few bits it holds is not in it as floats."""

from __future__ import annotations

from dataclasses import replace

from foldrank.edits.base import WeightEdit
from foldrank.edits.storage import StorageEdit
from foldrank.planfile.plan import Plan


def told_once(plan: Plan) -> Plan:
    """The plan without floats that no one reads: seven parts of eight of its arrays where all is stored in 4 bits.

    For when nothing trains them any more (`again.py` makes numbers from them).
    """
    held = {part for edit in plan.edits if isinstance(edit, StorageEdit) and edit.held for part in edit.touch.writes}
    told_twice = [edit for edit in plan.edits
                  if isinstance(edit, WeightEdit) and edit.ranked is None and edit.touch.writes <= held]
    if not told_twice:
        return plan
    edits = tuple(edit for edit in plan.edits if edit not in told_twice)
    read = {name for edit in edits for name in edit.arrays()}
    arrays = {name: plan.arrays[name] for name in plan.arrays if name in read}
    return replace(plan, arrays=arrays, document=replace(plan.document, edits=edits))
