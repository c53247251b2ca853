"""The top of the page: one verdict, and the four figures a reader came for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foldrank.reporting import figures, lookup
from foldrank.reporting.evidence import Evidence
from foldrank.reporting.gates import gate_name, gate_value
from foldrank.reporting.parts import Mark, Tile, Verdict
from foldrank.reporting.weight_bytes import split
from foldrank.reporting.workload import workload

_LARGE_LOSS = 0.10
"""Rise of perplexity above which a bundle that nobody set gates for is marked."""


def verdict(evidence: Evidence) -> Verdict:
    """What may be said: failed where anything failed, passed only where the graph proof ran and passed."""
    proof = lookup.at(evidence.validate, "graph", "passed")
    found = [*lookup.rows(evidence.validate, "gates"), *lookup.rows(evidence.bench, "gates")]
    gates = [gate for gate in found if gate.get("name") != "graph_proof"]
    failed = [gate for gate in gates if gate.get("passed") is not True]
    proved, missed = _proved(evidence, proof), tuple(_missed(gate) for gate in failed)
    told = {lookup.text(evidence.validate, "verdict"), lookup.text(evidence.bench, "verdict")}
    if proof is False or failed or "fail" in told:
        stopped = ("speed was not measured after that",) if evidence.bench is None else ()
        return Verdict("Failed", ((proved, *missed) if proof is False else (*missed, proved)) + stopped, "bad")
    if evidence.validate is None:
        return Verdict("Not validated", ("neither graph proof nor quality was measured",), "warn")
    if proof is not True:
        return Verdict("Not proved", (proved, "every gate holds" if gates else "no gates were set"), "warn")
    if all(gate.get("name") == "graph_proof" for gate in lookup.rows(evidence.validate, "gates")):
        return _ungated(evidence, proved, "every gate holds, none is on quality" if gates else "no gates were set")
    return Verdict("Passed", (proved, "every gate holds"), "good")


def _ungated(evidence: Evidence, proved: str, held: str) -> Verdict:
    """Nobody said what would be good enough: the fact is told, and a large loss is not neutral."""
    ratio = lookup.number(evidence.validate, "quality", "perplexity_ratio")
    cost = f"; perplexity {figures.change(ratio)}" if ratio is not None else ""
    mark: Mark = "warn" if ratio is not None and ratio > 1 + _LARGE_LOSS else ""
    return Verdict("Proved", (proved, f"{held}{cost}"), mark)


def _proved(evidence: Evidence, proof: Any) -> str:
    subject = "the plan" if evidence.plan is not None else "the checkpoint"
    if proof is True:
        return f"the graph computes what {subject} says"
    return f"the graph does not compute what {subject} says" if proof is False else "the graph proof was not run"


def _missed(gate: Mapping[str, Any]) -> str:
    """`max perplexity increase is 12.00 %, its limit 5.00 %`."""
    return f"{gate_name(gate)} is {gate_value(gate, 'value')}, its limit {gate_value(gate, 'limit')}"


def tiles(evidence: Evidence) -> tuple[Tile, ...]:
    """Size, quality, speed, proof."""
    return _size(evidence), _quality(evidence.validate), _speed(evidence.bench), _proof(evidence.validate)


def _size(evidence: Evidence) -> Tile:
    found = split(evidence)
    if found is None or evidence.plan is None:
        return Tile("Size", figures.size(evidence.model_bytes), "graph and weights as stored")
    return Tile(
        "Size",
        figures.percent(found.here / found.dense),
        f"of dense: weights {figures.size(found.dense)} → {figures.size(found.here)}; "
        f"decoder blocks' weights {figures.percent(evidence.kept)}",
    )


def _quality(validate: Any) -> Tile:
    quality = lookup.at(validate, "quality")
    ratio = lookup.number(quality, "perplexity_ratio")
    if ratio is None:
        return Tile("Perplexity", figures.MISSING, "foldrank validate", "quiet")
    return Tile(
        "Perplexity",
        figures.change(ratio),
        f"{figures.significant(lookup.number(quality, 'dense_perplexity'))} → "
        f"{figures.significant(lookup.number(quality, 'perplexity'))}; "
        f"top-1 agreement {figures.percent(lookup.number(quality, 'top1_agreement'))}",
    )


def _speed(bench: Any) -> Tile:
    row = headline(lookup.rows(bench, "speedups"))
    if row is None:
        return Tile("Decode speed", figures.MISSING, "foldrank bench", "quiet")
    bounds = lookup.numbers(row, "ci95")
    detail = f"95 % interval {figures.interval(bounds)}; " if bounds else ""
    unstable = row.get("stable") is False
    detail += f"ideal {figures.times(lookup.number(row, 'ideal'))}; {workload(row)}"
    ratio = figures.times(lookup.number(row, "ratio"))
    detail += f"; unstable pairs{_why(row)}" if unstable else ""
    return Tile("Decode speed", ratio, detail, "warn" if unstable else "")


def _why(row: Mapping[str, Any]) -> str:
    reason = lookup.text(row, "unstable_because")
    return f": {reason}" if reason else ""


def headline(speedups: list[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Decode, smallest batch, shortest prompt, first engine: no choosing of the best one."""
    rows = [row for row in speedups if row.get("phase") == "decode" and lookup.number(row, "ratio") is not None]
    return min(rows, key=lambda row: [lookup.number(row, k) or 0 for k in ("batch", "prompt_tokens")], default=None)


def _proof(validate: Any) -> Tile:
    graph = lookup.at(validate, "graph")
    worst, passed = lookup.number(graph, "max_relative_error"), lookup.at(graph, "passed")
    if worst is None and passed is None:
        return Tile("Graph proof", figures.MISSING, "foldrank validate", "quiet")
    mark: Mark = {True: "good", False: "bad"}.get(passed, "warn")  # type: ignore[assignment]
    word = {True: "passed", False: "failed"}.get(passed, "not run")
    return Tile(
        "Graph proof",
        word,
        f"largest relative error {figures.error(worst)}; "
        f"argmax agreement {figures.percent(lookup.number(graph, 'argmax_agreement'), 2)} "
        f"over {figures.whole(lookup.number(graph, 'positions'))} positions",
        mark,
    )
