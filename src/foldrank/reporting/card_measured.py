"""The model card's measured sections: quality and speed, or that they are not measured."""

from __future__ import annotations

import re
from typing import Any

from foldrank.reporting import figures, task_table
from foldrank.reporting.markdown import plain, table
from foldrank.reporting.workload import workload
from foldrank.reports.bench import Bench
from foldrank.reports.tasks import Tasks
from foldrank.reports.validate import GraphProof, Quality, Validation


def quality(validate: Validation | None) -> str:
    """Markdown from reports/validate.json (None: not there, or not to be read)."""
    if validate is None:
        return "## Quality\n\nNot measured. `foldrank validate` measures it."
    rows = [*_quality_rows(validate.quality), *_proof_rows(validate.graph)]
    verdict = f"Verdict of `foldrank validate`: {validate.verdict}."
    return "\n\n".join(("## Quality", table(("figure", "value"), rows), *_task_table(validate.tasks), verdict))


def _task_table(found: Tasks | None) -> list[str]:
    """Accuracies of both and their difference in points; nothing where tasks were not run."""
    if found is None:
        return []
    return [table(task_table.COLUMNS, [tuple(map(plain, row)) for row in task_table.rows(found)]),
            plain(f"{task_table.note(found)} {task_table.chat(found)}")]


_INDEXED = {"perplexity": "Perplexity", "kl_nats": "Mean KL to dense, nats", "top1_agreement": "Top-1 agreement"}


def model_index(name: str, validate: Validation | None) -> list[dict[str, Any]]:
    """The Hub's `model-index`: what `foldrank validate` measured, on which text; empty where nothing was."""
    if validate is None:
        return []
    metrics = [{"type": key, "name": title, "value": getattr(validate.quality, key)} for key, title in _INDEXED.items()]
    text = (validate.text and validate.text.name) or "held-out text"
    return [{"name": _one_line(name), "results": [{
        "task": {"type": "text-generation"}, "dataset": {"type": "text", "name": _one_line(text)}, "metrics": metrics,
    }]}]


def _one_line(name: str) -> str:
    """A stranger's name cannot end the front matter."""
    return re.sub(r"[^\w.-]+|-{3,}", " ", name).strip() or "unnamed"


def _quality_rows(found: Quality) -> list[tuple[str, str]]:
    return [
        ("perplexity, dense", figures.significant(found.dense_perplexity)),
        ("perplexity, this bundle", figures.significant(found.perplexity)),
        ("perplexity change", figures.change(found.perplexity_ratio)),
        ("mean KL (dense, this bundle)", figures.nats(found.kl_nats)),
        ("top-1 agreement with dense", figures.percent(found.top1_agreement)),
        ("common greedy prefix", f"{figures.significant(found.greedy_prefix_tokens)} tokens"),
        ("held-out tokens", figures.whole(found.tokens)),
    ]


def _proof_rows(found: GraphProof) -> list[tuple[str, str]]:
    return [
        ("graph proof, largest relative error", figures.error(found.max_relative_error)),
        ("graph proof, argmax agreement", figures.percent(found.argmax_agreement, 2)),
        ("graph proof, positions", figures.whole(found.positions)),
    ]


def speed(bench: Bench | None) -> str:
    """Markdown from reports/bench.json (None: not there, or not to be read)."""
    if bench is None or not bench.speedups:
        return "## Speed\n\nNot measured. `foldrank bench` measures it against the dense bundle."
    rows = [
        (
            plain(workload(row)),
            figures.times(row.ratio) + (" (unstable)" if row.stable is False else ""),
            figures.interval(row.ci95),
            figures.times(row.ideal),
        )
        for row in bench.speedups
    ]
    processor = bench.environment.cpu_model
    where = f" on {plain(processor)}" if processor else ""
    note = f"Paired with the dense bundle in one run{where}, {bench.environment.threads} threads."
    return f"## Speed\n\n{table(('workload', 'speed-up', '95 % interval', 'ideal'), rows)}\n\n{note}"
