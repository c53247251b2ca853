"""Tasks in words and rows, as the page and the model card both show them."""

from __future__ import annotations

from foldrank.reporting import figures
from foldrank.reports.tasks import Accuracy, Tasks

COLUMNS = ("task", "lm-eval back end", "items", "dense", "this bundle", "difference, 95 % interval")


def rows(found: Tasks) -> list[tuple[str, ...]]:
    """A row under COLUMNS for each task and back end: `62.0 % ± 4.9`, and the difference in points."""
    return [
        (row.task, row.backend, figures.whole(row.items), _share(row.dense), _share(row.bundle),
         f"{100 * row.difference:+.1f} ({100 * row.ci95[0]:+.1f} to {100 * row.ci95[1]:+.1f})") for row in found.rows
    ]


def note(found: Tasks) -> str:
    """What was counted, of which items, by what."""
    return (f"Of {found.choices} continuations the likeliest is counted: a guess is right in 1 of {found.choices}. "
            f"Items made from the held-out text with seed {found.seed}, run by lm-eval {found.lm_eval}; the "
            "difference, in points, is taken item by item.")


def chat(found: Tasks) -> str:
    """How far the answers to questions are dense's."""
    said = found.chat
    how = "" if said.templated else ", put without a chat template"
    return (f"Of {figures.whole(said.tokens)} tokens that dense answered to {said.questions} questions{how}, this "
            f"bundle wrote {figures.percent(said.equal)} in the same place, "
            f"{figures.significant(said.prefix_tokens)} in a row from the start.")


def _share(found: Accuracy) -> str:
    return f"{figures.percent(found.accuracy)} ± {100 * found.standard_error:.1f}"
