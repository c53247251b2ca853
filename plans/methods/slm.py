"""SLM, sliding layer merging: neighbouring blocks that change the last hidden state little become one block.

arXiv 2502.19159 (later titled Sliding-Window Merging). A window low..high is merged by one of five rules; W stands for
each of the seven projections and biases:
    top     W_high                                   (what the released code does)
    rdsc    W_low + sum_j (W_j - W_low)              (what the paper says; grows with the window)
    mean    the average                              bottom  W_low (plain removal)
    learned windows as of `top`, then coefficients by distillation, of what reads one input each (`depth/learning.py`)
Criterion: cosine of the last hidden state after the final norm (or of the logits), original against candidate, per
sample, averaged.

Cost: see `depth/prefix.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as settings_dataclass

from foldrank.edits.base import Phase
from foldrank.edits.fold_blocks import FoldBlocks
from foldrank.errors import SourceError
from foldrank.plans.depth.learning import learned
from foldrank.plans.depth.prefix import Bounding, PrefixCache
from foldrank.plans.depth.windows import Bounds, Loop, Outcome, Search, Window, merge_windows, search_threshold
from foldrank.plans.method import Method, Result, Task
from foldrank.plans.models.block import Block
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.shelf import Figures
from foldrank.plans.simulate import apply_edits

Rule = Literal["top", "rdsc", "mean", "bottom", "learned"]


@settings_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Merging:
    """What every method that merges windows of blocks takes: one of the first three, blocks spared at either end, and
    how many calibration windows of so many tokens similarity is measured on."""

    keep: Annotated[float, Field(gt=0, le=1)] | None = None
    threshold: Annotated[float, Field(ge=-2, le=2)] | None = None
    blocks: Annotated[int, Field(ge=1)] | None = None
    protect_first: Annotated[int, Field(ge=0)] = 1
    protect_last: Annotated[int, Field(ge=0)] = 1
    windows: Annotated[int, Field(ge=1)] = 8
    tokens: Annotated[int, Field(ge=2)] = 128

    def __post_init__(self) -> None:
        if sum(x is not None for x in (self.keep, self.threshold, self.blocks)) != 1:
            raise ValueError("give exactly one of keep, threshold, blocks")


@settings_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Settings(Merging):
    """Exactly one of keep (share of blocks left, at most), blocks (number left, at most) and threshold is given.

    `protect` names blocks that merge with none, such as 3+7-9, besides the first and last few. Of the calibration
    windows the first `windows` are used, and of each its first `tokens` tokens.
    """

    rule: Rule = "top"
    norms: Literal["bottom", "top"] = "bottom"
    similarity: Literal["state", "logits"] = "state"
    protect: Annotated[str, Field(pattern=r"^(\d+(-\d+)?(\+\d+(-\d+)?)*)?$")] = ""

    def bounds(self, count: int) -> Bounds:
        """Where windows may lie among `count` blocks. Raises ValueError where `protect` names a block there is not."""
        spans = [part.partition("-") for part in self.protect.split("+") if part]
        named = {block for low, _, high in spans for block in range(int(low), int(high or low) + 1)}
        if missing := sorted(named - set(range(count))):
            raise ValueError(f"slm: protect={self.protect}: there is no block {missing[0]}, but 0 to {count - 1}")
        return Bounds(self.protect_first, count - 1 - self.protect_last, frozenset(named))


def coefficients(rule: Rule, low: int, high: int) -> dict[int, float]:
    """Weight of each block of the window in the merged projections."""
    window = range(low, high + 1)
    match rule:
        case "top" | "learned":
            return {j: float(j == high) for j in window}
        case "bottom":
            return {j: float(j == low) for j in window}
        case "mean":
            return {j: 1.0 / len(window) for j in window}
        case "rdsc":
            return {j: float(2 - len(window)) if j == low else 1.0 for j in window}


def fold(window: Window, settings: Settings) -> FoldBlocks:
    """The edit that merges a window into its lowest block."""
    low, high = window
    return FoldBlocks(
        into=low, blocks=tuple(range(low, high + 1)), coefficients=coefficients(settings.rule, low, high),
        norms=settings.norms,
    )


def prefix_cache(decoder: Decoder, ids_NT: np.ndarray, settings: Settings) -> PrefixCache:
    """The original run once; candidates are compared by the last state after the final norm, or the logits."""
    compared = decoder.norm if settings.similarity == "state" else decoder.logits
    return PrefixCache.of(decoder, ids_NT, lambda window: fold(window, settings), compared)


def run(task: Task, settings: Settings) -> Result:
    """Choose windows and fold them. Raises ValueError where the budget is out of reach, SourceError where no two
    neighbours are of one kind."""
    return merged(task, settings, merge_windows, "slm")


def merged(task: Task, settings: Settings, loop: Loop, name: str) -> Result:
    """Choose windows by a loop and fold them. Raises as `run`."""
    decoder = task.decoder
    count = len(decoder.blocks)
    bounds = replace(settings.bounds(count), breaks=_breaks(decoder.blocks))
    target = _target(settings, count)
    if target is not None and target >= count:
        outcome, threshold = Outcome((), ()), 1.0
    else:
        _check_runs(bounds, decoder.blocks, name)
        _check_reachable(settings, bounds, count, target, name)
        ids = task.ids[: settings.windows, : settings.tokens]
        cache = prefix_cache(decoder, ids, settings)
        similarity = Bounding(cache, Figures(task.shelf, "similarities"), lambda: task.progress.advance(name))
        task.progress.start(name, None)
        if target is None:
            threshold = float(settings.threshold or 0.0)
            outcome = loop(similarity, bounds, threshold=threshold)
        else:
            found = search_threshold(similarity, bounds, blocks=count, target=target, loop=loop)
            threshold, outcome = found.threshold, _reached(found, count, target, name, settings)
        task.progress.finish(name)
    folds = tuple(fold(window, settings) for window in sorted(outcome.windows))
    predicted, diagnostics = _predicted(outcome, threshold, name), _diagnostics(outcome)
    if settings.rule == "learned" and folds:
        told = learned(decoder, folds, task.ids, seed=task.seed, progress=task.progress)
        folds, losses = told.folds, [loss for _, loss in told.curve]
        predicted |= {f"{name}.kl_before": losses[0], f"{name}.kl_after": min(losses)}
        diagnostics |= {"slm_learning": [{"step": step, "kl_nats": loss} for step, loss in told.curve]}
    return Result(
        decoder=apply_edits(folds, decoder, {}), edits=folds, kept=1 - outcome.removed / count,
        predicted=predicted, diagnostics=diagnostics,
    )


METHOD = Method("slm", Settings, run, phase=Phase.BLOCKS)


def _target(settings: Settings, count: int) -> int | None:
    """Most blocks that may be left; None where the threshold decides. The small term undoes 0.29 * 100 = 28.99..."""
    if settings.keep is not None:
        return math.floor(settings.keep * count + 1e-9)
    return settings.blocks


def _check_reachable(settings: Settings, bounds: Bounds, count: int, target: int | None, name: str) -> None:
    fewest = count - sum(len(run) - 1 for run in bounds.runs)
    if target is not None and target < fewest:
        named = f", protect={settings.protect}" if settings.protect else ""
        named += " and merging within one kind of block alone" if bounds.breaks else ""
        raise ValueError(
            f"{name}: {target} of {count} blocks cannot be reached with protect_first={settings.protect_first}, "
            f"protect_last={settings.protect_last}{named}: {fewest} is the fewest"
        )


def _reached(found: Search, count: int, target: int, name: str, settings: Settings) -> Outcome:
    if found.outcome is None:
        raise ValueError(
            f"{name}: no threshold leaves {target} of {count} blocks or fewer; rule {settings.rule} reaches "
            f"{', '.join(map(str, found.reachable))}"
        )
    return found.outcome


def _breaks(blocks: Sequence[Block]) -> frozenset[int]:
    """Blocks of another kind than their lower neighbour: merged with it, one of both would be computed as the other."""
    return frozenset(b.number for a, b in itertools.pairwise(blocks) if a.likeness != b.likeness)


def _check_runs(bounds: Bounds, blocks: Sequence[Block], name: str) -> None:
    """Kinds that change from each block to the next leave nothing to merge."""
    if not bounds.runs and (regardless := replace(bounds, breaks=frozenset()).runs):
        low, high = (blocks[number] for number in regardless[-1][:2])
        raise SourceError(
            f"block.{high.number:02d}",
            f"is of another kind ({high.kind}) than block.{low.number:02d} ({low.kind}), and so on: no two neighbours "
            "are alike",
            f"{name} merges neighbours of one kind only; use a method that keeps blocks apart, such as dipsvd",
        )


def _predicted(outcome: Outcome, threshold: float, name: str) -> dict[str, float | int]:
    accepted = [trial.similarity for trial in outcome.trials if trial.accepted and trial.window in outcome.windows]
    return {f"{name}.threshold": threshold, f"{name}.similarity": accepted[-1] if accepted else 1.0}


def _diagnostics(outcome: Outcome) -> dict[str, object]:
    """Of a candidate that was refused `similarity` is what it could have reached at most: it was not run further."""
    reasons = outcome.reasons
    return {
        "windows": [{"low": w[0], "high": w[1], "similarity": reasons[w]} for w in sorted(outcome.windows)],
        "slm_trace": [
            {"low": t.window[0], "high": t.window[1], "similarity": t.similarity, "accepted": t.accepted}
            for t in outcome.trials
        ],
    }
