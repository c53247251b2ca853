"""Choosing a plan's options (recipe file and command line) and showing a plan as tables."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

from foldrank.cli import output
from foldrank.edits import FoldBlocks, LowRank
from foldrank.planfile import Plan
from foldrank.recipe import Recipe, read_recipe


def given(name: str, value: Any) -> Any:
    """The value where the user typed the option, None where it is the default."""
    origin = click.get_current_context().get_parameter_source(name)
    return None if origin is click.core.ParameterSource.DEFAULT else value


def choose(recipe: Path | None, save: Path | None, **typed: Any) -> Recipe:
    """Options of the command line over those of the recipe; written to `save`. Without methods: a usage error."""
    fields = options(read_recipe(recipe)) if recipe else {}
    fields |= {name: str(value) if isinstance(value, Path) else value
               for name, value in typed.items() if value not in (None, ())}
    chosen = Recipe(**fields)
    if not chosen.methods:
        raise click.UsageError("no method; give --method slm:keep=0.75, or a --recipe with methods",
                               click.get_current_context())
    if save:
        chosen.save(save)
    return chosen


def options(recipe: Recipe) -> dict[str, Any]:
    """The fields that are set, as options of a verb."""
    fields = {name: getattr(recipe, name) for name in Recipe.__dataclass_fields__}
    return {name: value for name, value in fields.items() if value not in (None, ())}


def summary(plan: Plan) -> dict[str, Any]:
    """What a machine wants to know of a plan at a glance."""
    document = plan.document
    return {
        "steps": [{"method": s.method, "keep": {"asked": s.keep.asked, "reached": s.keep.reached}}
                  for s in document.steps],
        "blocks": document.source.blocks, "blocks_left": len(plan.surviving_blocks),
        "folds": len(plan.folds), "pairs": len(plan.pairs),
        "quantized": len(plan.quantized), "predicted": dict(document.predicted),
    }


def show(plan: Plan) -> None:
    """Tables of steps, folds and pairs."""
    document = plan.document
    output.say(f"plan for {document.source.name} ({document.source.architecture}, {document.source.blocks} blocks; "
               f"{len(plan.surviving_blocks)} stay)")
    if document.calibration:
        text = document.calibration
        output.say(f"calibration: {text.name}, {text.tokens:,} tokens in windows of {text.window}, seed {text.seed}"
                   + output.opening(text.bos))
    output.table("\nsteps", ("method", "settings", "keep asked", "keep reached"), (
        (s.method, ", ".join(f"{k}={v}" for k, v in sorted(s.settings.items()) if v is not None),
         s.keep.asked, s.keep.reached) for s in document.steps))
    if plan.folds:
        output.table("\nfolds", ("into", "blocks", "weights of", "norms of"), map(_fold_row, plan.folds))
    if plan.pairs:
        output.table("\nlow rank", ("site", "in", "out", "rank", "keeps"), map(_pair_row, plan.pairs))
    if plan.quantized:
        ways = Counter(f"{e.storage.bits} bits, blocks of {e.storage.block_size}" for e in plan.quantized)
        ways["the head too" if plan.head else "the head stays"] += plan.head is not None
        output.table("\nstored in few bits", ("how", "weights"), ways.items())
    if not document.edits:
        output.say("\nno edits")
    if document.predicted:
        output.table("\npredicted", ("what", "value"), sorted(document.predicted.items()))


def _fold_row(fold: FoldBlocks) -> tuple[Any, ...]:
    weights = " ".join(f"{fold.coefficients[b]:+g}*{b}" for b in fold.sources)
    return str(fold.into), f"{fold.blocks[0]}..{fold.blocks[-1]}", weights, str(fold.norm_source)


def _pair_row(pair: LowRank) -> tuple[Any, ...]:
    n_in, n_out = pair.shape
    return str(pair.site), n_in, n_out, pair.rank, f"{pair.rank * (n_in + n_out) / (n_in * n_out):.0%}"
