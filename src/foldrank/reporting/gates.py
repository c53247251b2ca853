"""Gates of reports/validate.json and reports/bench.json: limits a user set, and the graph proof's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foldrank.reporting import figures, lookup
from foldrank.reporting.parts import Cell, Part, Text, table


def outcome(passed: Any, words: tuple[str, str, str] = ("holds", "fails", "not run")) -> Cell:
    """How a gate or a check ended: true, false, or anything else for not run."""
    if passed is True:
        return Cell(words[0], "good")
    return Cell(words[1], "bad") if passed is False else Cell(words[2], "warn")


def gates(report: Any) -> list[Part]:
    """The gates of a report as a table; a sentence where none were set."""
    found = lookup.rows(report, "gates")
    if not found:
        return [Text("No gates were set.")]
    rows: list[list[str | Cell]] = [
        [gate_name(gate), gate_value(gate, "limit"), gate_value(gate, "value"), outcome(gate.get("passed"))]
        for gate in found
    ]
    return [table(("gate", "limit", "measured", "result"), "lrrl", rows)]


def gate_name(gate: Mapping[str, Any]) -> str:
    """`max_perplexity_increase` as words."""
    return str(gate.get("name", "?")).replace("_", " ")


def gate_value(gate: Mapping[str, Any], key: str) -> str:
    """A gate's limit or value in the unit its name tells."""
    name, value = str(gate.get("name", "")), lookup.number(gate, key)
    if value is None:
        return figures.MISSING
    if "increase" in name or "agreement" in name:
        return figures.percent(value, 2)
    if "speedup" in name:
        return figures.times(value)
    return figures.error(value) if "proof" in name else figures.significant(value, 4)
