"""What the compression cost in quality, before and after, with its gates."""

from __future__ import annotations

from collections.abc import Sequence

from foldrank.reporting import figures, task_table
from foldrank.reporting.evidence import Evidence
from foldrank.reporting.gates import gates
from foldrank.reporting.parts import Cell, Part, Section, Table, not_there, table
from foldrank.reporting.quality_chart import quality_picture
from foldrank.reports.tasks import Sample, Tasks
from foldrank.reports.validate import Quality, Validation


def quality(evidence: Evidence) -> Section:
    """Perplexity, KL, top-1, greedy prefix, gates."""
    found, title = evidence.validate, "What it cost in quality"
    if found is None:
        missing = not_there("Quality was", "foldrank validate DIR --reference DENSE", evidence.misfits.get("validate"))
        return Section("quality", title, (missing,))
    picture = quality_picture(found.quality, found.gates)
    parts = (*picture, _figures(found.quality, _text(found)), *gates(found), *_samples(found.samples or [], _WRITTEN),
             *_tasks(found.tasks))
    return Section("quality", title, parts)


def _figures(found: Quality, text: str) -> Table:
    rows = [
        (
            "perplexity",
            figures.significant(found.dense_perplexity),
            figures.significant(found.perplexity),
            figures.change(found.perplexity_ratio),
        ),
        ("mean KL (dense, this bundle)", "", figures.nats(found.kl_nats), ""),
        ("top-1 agreement with dense", "", figures.percent(found.top1_agreement), ""),
        ("common greedy prefix", "", _prefix(found), ""),
    ]
    return table(("figure", "dense", "this bundle", "change"), "lrrr", [list(row) for row in rows], text)


_WRITTEN = "Greedy continuations of held-out text, token by token the likeliest; the prompt is cut at its beginning."


def _tasks(found: Tasks | None) -> list[Part]:
    """Accuracies beside dense's and their difference; answers to questions. Nothing where tasks were not run."""
    if found is None:
        return []
    rows: list[list[str | Cell]] = [list(row) for row in task_table.rows(found)]
    return [table(task_table.COLUMNS, "llrrrr", rows, task_table.note(found)),
            *_samples(found.chat.samples, task_table.chat(found))]


def _samples(found: Sequence[Sample], caption: str) -> list[Part]:
    """What both write after the same words, where `foldrank validate` kept it."""
    rows: list[list[str | Cell]] = [
        [_one_line(words) for words in (sample.prompt, sample.dense, sample.bundle)] for sample in found
    ]
    if not rows:
        return []
    return [table(("after these words", "dense writes", "this bundle writes"), "ppp", rows, caption)]


def _one_line(text: str) -> str:
    """Line breaks as one sign; of a long prompt its end."""
    shown = " ".join(text.replace("\n", " ⏎ ").split())
    return shown if len(shown) <= _SAMPLE else f"… {shown[-_SAMPLE:]}"


_SAMPLE = 400
"""Characters of one cell."""


def _prefix(found: Quality) -> str:
    """Mean tokens until the two part ways, of how many were continued."""
    most = "" if found.greedy_continued_tokens is None else f" of {found.greedy_continued_tokens:,}"
    return f"{figures.significant(found.greedy_prefix_tokens)}{most} tokens"


def _text(found: Validation) -> str:
    """What was read: `On 20,440 held-out tokens of x.jsonl, in 40 windows of 512.`"""
    measured, text = found.quality, found.text
    windows = "" if measured.windows is None or measured.window is None else (
        f", in {measured.windows:,} windows of {measured.window:,}")
    opened = "" if text is None or text.bos is None else (
        f", each opening with the token {text.bos} (BOS), which is not predicted")
    name = f" of {text.name}" if text is not None and text.name else ""
    return f"On {measured.tokens:,} held-out tokens{name}{windows}{opened}."
