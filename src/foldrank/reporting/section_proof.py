"""Quality before and after with its gates, and the graph proof: two proofs, never mixed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foldrank.reporting import figures, lookup
from foldrank.reporting.evidence import Evidence
from foldrank.reporting.parts import Cell, Missing, Part, Section, Table, Text, table
from foldrank.reporting.quality_chart import quality_picture

_VALIDATE = "foldrank validate DIR --reference DENSE"


def quality(evidence: Evidence) -> Section:
    """Perplexity, KL, top-1, greedy prefix, gates."""
    found = lookup.pairs(evidence.validate, "quality")
    title = "What it cost in quality"
    if not found:
        return Section("quality", title, (Missing("Quality was", _VALIDATE),))
    parts: list[Part] = [
        *quality_picture(found, lookup.rows(evidence.validate, "gates")),
        _figures(found),
        *gates(evidence.validate),
    ]
    if rest := _rest(found, _SHOWN):
        parts.append(rest)
    return Section("quality", title, tuple(parts))


_SHOWN = {
    "tokens",
    "dense_perplexity",
    "perplexity",
    "perplexity_ratio",
    "kl_nats",
    "top1_agreement",
    "greedy_prefix_tokens",
}


def _figures(found: Mapping[str, Any]) -> Table:
    rows = [
        [
            "perplexity",
            figures.significant(lookup.number(found, "dense_perplexity")),
            figures.significant(lookup.number(found, "perplexity")),
            figures.change(lookup.number(found, "perplexity_ratio")),
        ],
        ["mean KL (dense, this bundle)", "", figures.nats(lookup.number(found, "kl_nats")), ""],
        ["top-1 agreement with dense", "", figures.percent(lookup.number(found, "top1_agreement")), ""],
        ["common greedy prefix", "", _tokens(lookup.number(found, "greedy_prefix_tokens")), ""],
    ]
    caption = f"On {figures.whole(lookup.number(found, 'tokens'))} held-out tokens." if "tokens" in found else ""
    return table(("figure", "dense", "this bundle", "change"), "lrrr", [list(row) for row in rows], caption)


def _tokens(value: float | None) -> str:
    return figures.MISSING if value is None else f"{figures.significant(value)} tokens"


def gates(report: Any) -> list[Part]:
    """The gates of a report as a table; a sentence where none were set."""
    found = lookup.rows(report, "gates")
    if not found:
        return [Text("No gates were set.")]
    rows: list[list[str | Cell]] = [
        [
            str(gate.get("name", "?")).replace("_", " "),
            *(gate_value(gate, key) for key in ("limit", "value")),
            Cell("holds", "good") if gate.get("passed") is True else Cell("fails", "bad"),
        ]
        for gate in found
    ]
    return [table(("gate", "limit", "measured", "result"), "lrrl", rows)]


def gate_value(gate: Mapping[str, Any], key: str) -> str:
    """A gate's limit or value in the unit its name tells."""
    name, value = str(gate.get("name", "")), lookup.number(gate, key)
    if value is None:
        return str(gate.get(key))
    if "increase" in name or "agreement" in name:
        return figures.percent(value, 2)
    return figures.times(value) if "speedup" in name else figures.significant(value, 4)


def _value(value: Any) -> str:
    return (
        figures.significant(value, 4) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
    )


def proof(evidence: Evidence) -> Section:
    """The graph against an independent reference."""
    found = lookup.pairs(evidence.validate, "graph")
    title = "Does the graph compute what the plan says?"
    if not found:
        return Section("proof", title, (Missing("The graph proof was", _VALIDATE + " --model MODEL"),))
    passed = found.get("passed")
    rows: list[list[str | Cell]] = [
        ["reference", str(found.get("reference", "?"))],
        ["positions compared", figures.whole(lookup.number(found, "positions"))],
        ["largest error over the largest logit", figures.error(lookup.number(found, "max_relative_error"))],
        ["same likeliest token", figures.percent(lookup.number(found, "argmax_agreement"), 2)],
        [
            "result",
            Cell("passed", "good")
            if passed is True
            else Cell("failed", "bad")
            if passed is False
            else Cell("not run", "warn"),
        ],
    ]
    shown = {"reference", "positions", "max_relative_error", "argmax_agreement", "passed"}
    rest = _rest(found, shown)
    return Section("proof", title, (table((), "ll", rows), *((rest,) if rest else ())))


def _rest(found: Mapping[str, Any], shown: set[str]) -> Table | None:
    """What a report says beyond the common keys, so that nothing measured is hidden."""
    rows = [
        [key.replace("_", " "), _more(value)]
        for key, value in sorted(found.items())
        if key not in shown and isinstance(value, str | int | float | bool)
    ]
    return table(("also recorded", "value"), "ll", [list(row) for row in rows]) if rows else None


def _more(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and 0 < abs(value) < 1e-3:
        return figures.error(value)
    return figures.whole(value) if isinstance(value, int) else _value(value)
