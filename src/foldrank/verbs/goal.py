"""`compress --goal`: what is asked of the planner where the user names no method.

Every goal is a budget and a short recovery behind it. Where the provider computes with weights in few bits, the measure
is the plain 4-bit model, what one would otherwise take: fewer bytes than that, as many, or less time, by a cost table
that is measured on this machine first. Elsewhere it is the dense model; few bits as standard operators, which such a
provider may take, are to be asked for: `quantize:form=qdq`. `auto` chooses all the rest, but for bytes: for as many,
4-bit rounding with its scales trained came out better than `auto` with its scales trained, for a fifth of the planning
(SmolLM2-135M: 1.046 and 1.057 times the dense perplexity), and rounding in another basis (`rotate`, behind
`pre_rmsnorm` where norms are LayerNorms) better still, before any training (1.042). For fewer, blocks of 64 under one
scale in that basis take 94.5 % of the bytes at 1.062; `auto` took 88.5 % at 1.127. What a method takes is told in
passes of the calibration text through the model, as this machine runs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from foldrank.edits.storage import HAVE_FEW_BITS

TABLE: Final = "{table}"
"""Stands for the cost table in a method's settings."""

ROTATE: Final = "rotate"

FEW_BITS: Final = {
    "small": (ROTATE, "quantize:bits=4,block_size=64"),
    "balanced": (ROTATE, "quantize:bits=4"),
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

PASSES: Final = {"auto": 18.0, "quantize": 4.0}
"""Of the calibration text through the blocks, that planning takes as long as (SmolLM2-135M, two threads)."""

FINISHING_PASSES: Final = 1.4
"""That self-test, greedy texts and writing take as long as."""

QUALITY: Final = 3.4
"""Times a token through the blocks, that a held-out token takes: through two models with their heads."""

QUALITY_SHARE: Final = 0.15
"""Of the time given, that quality may take; its text is as short as that asks, but no shorter than `LEAST_TOKENS`."""

LEAST_TOKENS: Final = 5_120
MOST_TOKENS: Final = 20_480


@dataclass(frozen=True)
class Choice:
    """What a goal comes to: methods in their order, the recovery behind them (`recover` None: the kind that suits the
    plan; `minutes` None: none), how many held-out tokens judge it, and in words why."""

    methods: tuple[str, ...]
    recover: str | None
    minutes: float | None
    tokens: int
    told: str


def methods_of(goal: str, provider: str, *, turning: Sequence[str] = (ROTATE,)) -> tuple[str, ...]:
    """What `--method` would say, with `TABLE` where a cost table is to be measured first. `provider`: its short name.
    `turning`: the methods that rotate the model's stream, none where it cannot be. Raises ValueError on a goal there is
    not."""
    if goal not in GOALS:
        raise ValueError(f"goal {goal!r}: known are {', '.join(GOALS)}")
    methods = (FEW_BITS if provider in HAVE_FEW_BITS else FLOATS)[goal]
    return tuple(one for method in methods for one in (turning if method == ROTATE else (method,)))


def kind_behind(provider: str) -> str | None:
    """The recovery that follows a goal; None: the kind that suits the plan."""
    return "scales" if provider in HAVE_FEW_BITS else None


def choice(
    goal: str, provider: str, *, token_s: float, calibration: int, left_s: float | None = None,
    turning: Sequence[str] = (ROTATE,),
) -> Choice:
    """Its methods, and recovery in what planning and judging are expected to leave of the time.

    `token_s`: seconds of a token through the blocks (`plans/pace.py`), of which there are `calibration` to plan on.
    `left_s`: for all but proofs and bench; None where time is not limited. `turning` as in `methods_of`.
    """
    methods = methods_of(goal, provider, turning=turning)
    tokens = MOST_TOKENS if left_s is None else held_out_tokens(left_s, token_s)
    planning_s = (PASSES[methods[-1].partition(":")[0]] + FINISHING_PASSES) * token_s * calibration
    takes_s = planning_s + QUALITY * token_s * tokens
    minutes = RECOVERY_MINUTES if left_s is None else min(RECOVERY_MINUTES, round((left_s - takes_s) / 60, 1))
    trained = minutes if minutes >= LEAST_MINUTES else None
    told = f"goal {goal}: {' + '.join(methods)}, about {max(1, round(takes_s / 60))} min of planning and judging"
    told += "" if tokens == MOST_TOKENS else f" (on {tokens:,} tokens)"
    told += ", no recovery" if trained is None else f", then {trained:g} min of recovery"
    if left_s is not None and takes_s > left_s:
        told += "; more than the minutes given leave"
    return Choice(methods, kind_behind(provider) if trained else None, trained, tokens, told)


def held_out_tokens(left_s: float, token_s: float) -> int:
    """As many as fit into quality's share of the time left, in whole windows of 512."""
    fitting = int(QUALITY_SHARE * left_s / (QUALITY * token_s)) // 512 * 512
    return max(LEAST_TOKENS, min(MOST_TOKENS, fitting))
