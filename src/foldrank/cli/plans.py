"""Choosing a plan's options (recipe file and command line) and showing a plan as tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from foldrank.cli import options as shared
from foldrank.cli import output
from foldrank.edits import KINDS, class_of
from foldrank.planfile.plan import Plan
from foldrank.recipe import Recipe, altered, read_recipe


def given(name: str, value: Any) -> Any:
    """The value where the user typed the option, None where it is the default."""
    origin = click.get_current_context().get_parameter_source(name)
    return None if origin is click.core.ParameterSource.DEFAULT else value


def choose(recipe: Path | None, save: Path | None, *, settings: Sequence[str] = (), **typed: Any) -> Recipe:
    """Options of the command line over those of the recipe with `settings`; written to `save`. Without methods: a usage
    error."""
    if settings and recipe is None:
        raise click.UsageError("--set changes a recipe; give --recipe too", click.get_current_context())
    fields = options(shared.usage(altered, read_recipe(recipe), settings)) if recipe else {}
    fields.pop("model", None)
    for one, other in (("goal", "methods"), ("methods", "goal")):
        if typed.get(one):
            fields.pop(other, None)
    fields |= {name: str(value) if isinstance(value, Path) else value
               for name, value in typed.items() if value not in (None, ())}
    chosen = Recipe(**fields)
    if not chosen.methods and chosen.goal is None:
        what = "no method; give --method slm:keep=0.75, or a --recipe with methods (compress: or --goal)"
        raise click.UsageError(what, click.get_current_context())
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
        **{class_of(kind).counted: len(plan.of(class_of(kind))) for kind in KINDS},
        "predicted": dict(document.predicted),
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
    for kind in KINDS:
        if edits := plan.of(class_of(kind)):
            table = class_of(kind).table(edits)
            output.table(f"\n{table.title}", table.headings, table.rows)
    if not document.edits:
        output.say("\nno edits")
    if document.predicted:
        output.table("\npredicted", ("what", "value"), sorted(document.predicted.items()))
