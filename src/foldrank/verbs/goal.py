"""`compress --goal`: what is asked of the planner where the user names no method.

Every goal is a budget for `auto`, which chooses all the rest. Where the provider computes with weights in few bits, the
measure is the plain 4-bit model, what one would otherwise take: fewer bytes than that, as many, or less time, by a cost
table that is measured on this machine first. Elsewhere it is the dense model; few bits as standard operators, which
such a provider may take, are to be asked for: `quantize:form=qdq`, or `auto:of_int4=…,form=qdq`.
"""

from __future__ import annotations

from typing import Final

from foldrank.edits.storage import HAVE_FEW_BITS

TABLE: Final = "{table}"
"""Stands for the cost table in a method's settings."""

FEW_BITS: Final = {
    "small": "auto:of_int4=0.9,effort=low",
    "balanced": "auto:of_int4=1,effort=low",
    "fast": f"auto:of_int4=0.85,cost_table={TABLE},effort=low",
}
FLOATS: Final = {
    "small": "auto:keep=0.8,effort=low",
    "balanced": "auto:keep=0.9,effort=low",
    "fast": f"auto:speedup=1.25,cost_table={TABLE},effort=low",
}
GOALS: Final = tuple(FEW_BITS)


def method_of(goal: str, provider: str) -> str:
    """What `--method` would say, with `TABLE` where a cost table is to be measured first. `provider`: its short name.
    Raises ValueError on a goal there is not."""
    if goal not in GOALS:
        raise ValueError(f"goal {goal!r}: known are {', '.join(GOALS)}")
    return (FEW_BITS if provider in HAVE_FEW_BITS else FLOATS)[goal]
