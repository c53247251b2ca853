"""`compress --goal`: what is asked of the planner where the user names no method.

Every goal is a budget for `auto`, which chooses all the rest, and a short recovery behind it. Where the provider
computes with weights in few bits, the measure is the plain 4-bit model, what one would otherwise take: fewer bytes than
that, as many, or less time, by a cost table that is measured on this machine first. Elsewhere it is the dense model;
few bits as standard operators, which such a provider may take, are to be asked for: `quantize:form=qdq`.
Where the time is limited and `auto` would take too much of it, as many bytes come from 4-bit rounding alone. What a
method takes is told in passes of the calibration text through the model, as this machine runs them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from foldrank.edits.storage import HAVE_FEW_BITS

TABLE: Final = "{table}"
"""Stands for the cost table in a method's settings."""

FEW_BITS: Final = {
    "small": ("auto:of_int4=0.9,effort=low",),
    "balanced": ("auto:of_int4=1,effort=low", "quantize:bits=4"),
    "fast": (f"auto:of_int4=0.85,cost_table={TABLE},effort=low",),
}
FLOATS: Final = {
    "small": ("auto:keep=0.8,effort=low",),
    "balanced": ("auto:keep=0.9,effort=low",),
    "fast": (f"auto:speedup=1.25,cost_table={TABLE},effort=low",),
}
GOALS: Final = tuple(FEW_BITS)

RECOVERY_MINUTES: Final = 15.0
"""Of training behind the plan, where the time allows it."""

LEAST_MINUTES: Final = 0.5
"""Of training that are worth their start."""

PASSES: Final = {"auto": 18.0, "quantize": 5.0}
"""Of the calibration text through the model, that planning takes as long as (SmolLM2-135M, two threads)."""

JUDGING_PASSES: Final = 3.0
"""That quality, self-test and writing take as long as."""


@dataclass(frozen=True)
class Choice:
    """What a goal comes to: a method, the recovery behind it (`recover` None: the kind that suits the plan; `minutes`
    None: none), and in words why."""

    method: str
    recover: str | None
    minutes: float | None
    told: str


def candidates(goal: str, provider: str) -> tuple[str, ...]:
    """What `--method` would say, the best first; with `TABLE` where a cost table is to be measured first. `provider`:
    its short name. Raises ValueError on a goal there is not."""
    if goal not in GOALS:
        raise ValueError(f"goal {goal!r}: known are {', '.join(GOALS)}")
    return (FEW_BITS if provider in HAVE_FEW_BITS else FLOATS)[goal]


def kind_behind(provider: str) -> str | None:
    """The recovery that follows a goal; None: the kind that suits the plan."""
    return "scales" if provider in HAVE_FEW_BITS else None


def choice(goal: str, provider: str, *, pass_s: float, left_s: float | None = None) -> Choice:
    """The best candidate that fits into what is left for planning and training, or the quickest; recovery in the rest.

    `pass_s`: seconds of one pass (`plans/pace.py`). `left_s`: None where time is not limited.
    """
    known = candidates(goal, provider)
    recover = kind_behind(provider)
    takes = {method: (PASSES[method.partition(":")[0]] + JUDGING_PASSES) * pass_s for method in known}
    if left_s is None:
        return Choice(known[0], recover, RECOVERY_MINUTES, _told(goal, known[0], takes, RECOVERY_MINUTES))
    fitting = [method for method in known if takes[method] <= left_s]
    method = fitting[0] if fitting else min(known, key=lambda one: takes[one])
    minutes = min(RECOVERY_MINUTES, round((left_s - takes[method]) / 60, 1))
    trained = minutes if minutes >= LEAST_MINUTES else None
    passed = known[: known.index(method)]
    told = _told(goal, method, takes, trained)
    told += "".join(f"; {other} would take about {_minutes(takes[other])}" for other in passed)
    return Choice(method, recover if trained else None, trained, told if fitting else told + "; more than is left")


def _told(goal: str, method: str, takes: dict[str, float], minutes: float | None) -> str:
    trained = "no recovery" if minutes is None else f"then {minutes:g} minutes of recovery"
    return f"goal {goal}: {method}, about {_minutes(takes[method])} of planning and judging, {trained}"


def _minutes(seconds: float) -> str:
    return f"{max(1, round(seconds / 60))} min"
