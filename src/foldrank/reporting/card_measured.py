"""The model card's measured sections: quality and speed, or that they are not measured."""

from __future__ import annotations

import re
from typing import Any

from foldrank.reporting import figures, lookup
from foldrank.reporting.markdown import plain, table
from foldrank.reporting.workload import workload


def quality(validate: Any) -> str:
    """Markdown from reports/validate.json (None: not there)."""
    if validate is None:
        return "## Quality\n\nNot measured. `foldrank validate` measures it."
    rows = [*_quality_rows(validate), *_proof_rows(validate)]
    verdict = lookup.text(validate, "verdict")
    last = f"Verdict of `foldrank validate`: {plain(verdict)}." if verdict else ""
    return "\n\n".join(part for part in ("## Quality", table(("figure", "value"), rows), last) if part)


_INDEXED = {"perplexity": "Perplexity", "kl_nats": "Mean KL to dense, nats", "top1_agreement": "Top-1 agreement"}


def model_index(name: str, validate: Any) -> list[dict[str, Any]]:
    """The Hub's `model-index`: what `foldrank validate` measured, on which text; empty where nothing was."""
    found = lookup.pairs(validate, "quality")
    metrics = [{"type": key, "name": title, "value": value} for key, title in _INDEXED.items()
               if (value := lookup.number(found, key)) is not None]
    if not metrics:
        return []
    text = lookup.text(validate, "text", "name") or "held-out text"
    return [{"name": _one_line(name), "results": [{
        "task": {"type": "text-generation"}, "dataset": {"type": "text", "name": _one_line(text)}, "metrics": metrics,
    }]}]


def _one_line(name: str) -> str:
    """A stranger's name cannot end the front matter."""
    return re.sub(r"[^\w.-]+|-{3,}", " ", name).strip() or "unnamed"


def _quality_rows(validate: Any) -> list[tuple[str, str]]:
    found = lookup.pairs(validate, "quality")
    if not found:
        return [("quality", figures.MISSING)]
    prefix = lookup.number(found, "greedy_prefix_tokens")
    return [
        ("perplexity, dense", figures.significant(lookup.number(found, "dense_perplexity"))),
        ("perplexity, this bundle", figures.significant(lookup.number(found, "perplexity"))),
        ("perplexity change", figures.change(lookup.number(found, "perplexity_ratio"))),
        ("mean KL (dense, this bundle)", figures.nats(lookup.number(found, "kl_nats"))),
        ("top-1 agreement with dense", figures.percent(lookup.number(found, "top1_agreement"))),
        ("common greedy prefix", figures.MISSING if prefix is None else f"{figures.significant(prefix)} tokens"),
        ("held-out tokens", figures.whole(lookup.number(found, "tokens"))),
    ]


def _proof_rows(validate: Any) -> list[tuple[str, str]]:
    found = lookup.pairs(validate, "graph")
    if not found:
        return [("graph proof", "not run")]
    return [
        ("graph proof, largest relative error", figures.error(lookup.number(found, "max_relative_error"))),
        ("graph proof, argmax agreement", figures.percent(lookup.number(found, "argmax_agreement"), 2)),
        ("graph proof, positions", figures.whole(lookup.number(found, "positions"))),
    ]


def speed(bench: Any) -> str:
    """Markdown from reports/bench.json (None: not there)."""
    found = lookup.rows(bench, "speedups")
    if not found:
        return "## Speed\n\nNot measured. `foldrank bench` measures it against the dense bundle."
    rows = [
        (
            plain(workload(row)),
            figures.times(lookup.number(row, "ratio")) + (" (unstable)" if row.get("stable") is False else ""),
            figures.interval(lookup.numbers(row, "ci95")),
            figures.times(lookup.number(row, "ideal")),
        )
        for row in found
    ]
    processor, threads = lookup.text(bench, "environment", "cpu"), lookup.integer(bench, "environment", "threads")
    where = f" on {plain(processor)}" if processor else ""
    note = f"Paired with the dense bundle in one run{where}{f', {threads} threads' if threads else ''}."
    return f"## Speed\n\n{table(('workload', 'speed-up', '95 % interval', 'ideal'), rows)}\n\n{note}"
