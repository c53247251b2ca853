"""The graph proof: does the ONNX graph compute what the plan says? Says nothing of quality."""

from __future__ import annotations

from foldrank.reporting import figures
from foldrank.reporting.evidence import Evidence
from foldrank.reporting.gates import outcome
from foldrank.reporting.parts import Cell, Part, Section, Table, not_there, table
from foldrank.reports.validate import Check, GraphProof

_RESULT = ("passed", "failed", "not run")
_MEASURES = {"kl_nats": "mean KL in nats", "max_relative_error": "largest relative error"}
_CHECKS = {
    "reference": "against the reference",
    "cached_decode": "token by token with the cache, against one pass",
    "padded": "rows padded on the right, against the same rows alone",
    "padded_left": "rows padded on the left, against the same rows alone",
    "batch": "rows in a batch, against the same rows alone",
    "full_context": "one window as long as the context, against the reference",
    "in_float32": "all arithmetic in float32, against the reference",
    "rounded": "activations rounded as the graph asks, against the reference",
    "genai_greedy": "greedy tokens of onnxruntime-genai, against the likeliest",
}


def proof(evidence: Evidence) -> Section:
    """The graph against an independent reference, and against itself run in other ways."""
    title = f"Does the graph compute what the {'plan' if evidence.plan is not None else 'checkpoint'} says?"
    if evidence.validate is None:
        command = "foldrank validate DIR --reference DENSE --model MODEL"
        missing = not_there("The graph proof was", command, evidence.misfits.get("validate"))
        return Section("proof", title, (missing,))
    found = evidence.validate.graph
    parts: list[Part] = [_summary(found), *([_checks(found.checks, found)] if found.checks else [])]
    return Section("proof", title, tuple(parts))


def _summary(found: GraphProof) -> Table:
    rows: list[list[str | Cell]] = [
        ["reference", found.reference],
        ["positions compared", figures.whole(found.positions)],
        ["largest error over the largest logit", figures.error(found.max_relative_error)],
        ["same likeliest token", figures.percent(found.argmax_agreement, 2)],
    ]
    if kept := found.few_bits_kept:
        name = f"{kept.compared:,} weights that came in few bits, bit for bit"
        rows.append([name, outcome(kept.passed, _RESULT)])
    if kept := found.numbers_planned:
        name = f"{kept.compared:,} weights whose numbers are planned, bit for bit"
        rows.append([name, outcome(kept.passed, _RESULT)])
    if kept := found.weights_kept:
        name = f"{kept.compared:,} weights that no edit touches, bit for bit the checkpoint's"
        rows.append([name, outcome(kept.passed, _RESULT)])
    if found.kl_nats is not None:
        rows.append(["mean KL (reference, graph)", figures.nats(found.kl_nats)])
    if found.limit is not None:
        rows.append([f"limit of the {_measure(found)}", figures.error(found.limit)])
    rows.append(["result", outcome(found.passed, _RESULT)])
    return table((), "ll", rows)


def _checks(checks: list[Check], found: GraphProof) -> Table:
    rows: list[list[str | Cell]] = [
        [
            _CHECKS.get(check.name, check.name),
            figures.whole(check.positions),
            figures.error(check.value),
            figures.error(check.limit),
            _MEASURES[check.measure or found.measure or "max_relative_error"],
            figures.percent(check.argmax_agreement, 2),
            outcome(check.passed, _RESULT),
        ]
        for check in checks
    ]
    headings = ("check", "positions", "found", "limit", "measured", "same likeliest token", "result")
    return table(headings, "lrrrlrl", rows)


def _measure(found: GraphProof) -> str:
    return _MEASURES[found.measure or "max_relative_error"]
