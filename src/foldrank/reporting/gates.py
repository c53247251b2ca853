"""Gates of reports/validate.json and reports/bench.json: limits a user set, and the graph proof's own."""

from __future__ import annotations

from foldrank.reporting import figures
from foldrank.reporting.parts import Cell, Part, Text, table
from foldrank.reports.form import Gate, Judged


def outcome(passed: bool | None, words: tuple[str, str, str] = ("holds", "fails", "not run")) -> Cell:
    """How a gate or a check ended; None: it was not run."""
    if passed is None:
        return Cell(words[2], "warn")
    return Cell(words[0], "good") if passed else Cell(words[1], "bad")


def gates(report: Judged) -> list[Part]:
    """The gates of a report as a table; a sentence where none were set."""
    if not report.gates:
        return [Text("No gates were set.")]
    rows: list[list[str | Cell]] = [
        [gate_name(gate), gate_value(gate, gate.limit), gate_value(gate, gate.value), outcome(gate.passed)]
        for gate in report.gates
    ]
    return [table(("gate", "limit", "measured", "result"), "lrrl", rows)]


def gate_name(gate: Gate) -> str:
    """`max_perplexity_increase` as words."""
    return gate.name.replace("_", " ")


def gate_value(gate: Gate, value: float | None) -> str:
    """A gate's limit or value in the unit its name tells."""
    if value is None:
        return figures.MISSING
    if "increase" in gate.name or "agreement" in gate.name:
        return figures.percent(value, 2)
    if "speedup" in gate.name:
        return figures.times(value)
    return figures.error(value) if "proof" in gate.name else figures.significant(value, 4)
