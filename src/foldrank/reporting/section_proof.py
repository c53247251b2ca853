"""The graph proof: does the ONNX graph compute what the plan says? Says nothing of quality."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foldrank.reporting import figures, lookup
from foldrank.reporting.evidence import Evidence
from foldrank.reporting.gates import outcome
from foldrank.reporting.parts import Cell, Missing, Part, Section, Table, table

_RESULT = ("passed", "failed", "not run")
_CHECKS = {
    "reference": "against the reference",
    "cached_decode": "token by token with the cache, against one pass",
    "padded": "rows padded on the right, against the same rows alone",
    "padded_left": "rows padded on the left, against the same rows alone",
    "batch": "rows in a batch, against the same rows alone",
}


def proof(evidence: Evidence) -> Section:
    """The graph against an independent reference, and against itself run in other ways."""
    found = lookup.pairs(evidence.validate, "graph")
    title = f"Does the graph compute what the {'plan' if evidence.plan is not None else 'checkpoint'} says?"
    if not found:
        missing = Missing("The graph proof was", "foldrank validate DIR --reference DENSE --model MODEL")
        return Section("proof", title, (missing,))
    checks = lookup.rows(found, "checks")
    parts: list[Part] = [_summary(found), *([_checks(checks, found)] if checks else [])]
    return Section("proof", title, tuple(parts))


def _summary(found: Mapping[str, Any]) -> Table:
    kl, limit = lookup.number(found, "kl_nats"), lookup.number(found, "limit")
    rows: list[list[str | Cell]] = [
        ["reference", str(found.get("reference", "?"))],
        ["positions compared", figures.whole(lookup.number(found, "positions"))],
        ["largest error over the largest logit", figures.error(lookup.number(found, "max_relative_error"))],
        ["same likeliest token", figures.percent(lookup.number(found, "argmax_agreement"), 2)],
    ]
    if kept := lookup.pairs(found, "few_bits_kept"):
        compared = figures.whole(lookup.number(kept, "compared"))
        rows.append([f"{compared} weights that came in few bits, bit for bit", outcome(kept.get("passed"), _RESULT)])
    if kl is not None:
        rows.append(["mean KL (reference, graph)", figures.nats(kl)])
    if limit is not None:
        rows.append([f"limit of the {_measure(found)}", figures.error(limit)])
    rows.append(["result", outcome(found.get("passed"), _RESULT)])
    return table((), "ll", rows)


def _checks(checks: list[Mapping[str, Any]], found: Mapping[str, Any]) -> Table:
    rows: list[list[str | Cell]] = [
        [
            _CHECKS.get(str(check.get("name")), str(check.get("name", "?"))),
            figures.whole(lookup.number(check, "positions")),
            figures.error(lookup.number(check, "value")),
            figures.percent(lookup.number(check, "argmax_agreement"), 2),
            outcome(check.get("passed"), _RESULT),
        ]
        for check in checks
    ]
    return table(("check", "positions", _measure(found), "same likeliest token", "result"), "lrrrl", rows)


def _measure(found: Mapping[str, Any]) -> str:
    return "mean KL in nats" if lookup.text(found, "measure") == "kl_nats" else "largest relative error"
