"""The top of the page: one verdict, and the four figures a reader came for."""

from __future__ import annotations

from foldrank.reporting import figures
from foldrank.reporting.evidence import Evidence
from foldrank.reporting.gates import gate_name, gate_value
from foldrank.reporting.parts import Mark, Tile, Verdict
from foldrank.reporting.weight_bytes import split
from foldrank.reporting.workload import workload
from foldrank.reports.bench import Bench, headline
from foldrank.reports.form import Gate
from foldrank.reports.validate import Quality, Validation

_LARGE_LOSS = 0.10
"""Rise of perplexity above which a bundle that nobody set gates for is marked."""


def verdict(evidence: Evidence) -> Verdict:
    """What may be said: failed where anything failed, passed only where the graph proof ran and passed."""
    proof = evidence.validate.graph.passed if evidence.validate is not None else None
    reports = [report for report in (evidence.validate, evidence.bench) if report is not None]
    gates = [gate for report in reports for gate in report.gates if gate.name != "graph_proof"]
    failed = [gate for gate in gates if gate.passed is not True]
    proved, missed = _proved(evidence, proof), tuple(_missed(gate) for gate in failed)
    if proof is False or failed or any(report.failed for report in reports):
        stopped = ("speed was not measured after that",) if evidence.bench is None else ()
        return Verdict("Failed", ((proved, *missed) if proof is False else (*missed, proved)) + stopped, "bad")
    if evidence.validate is None:
        return Verdict("Not validated", ("neither graph proof nor quality was measured",), "warn")
    if proof is not True:
        return Verdict("Not proved", (proved, "every gate holds" if gates else "no gates were set"), "warn")
    if all(gate.name == "graph_proof" for gate in evidence.validate.gates):
        held = "every gate holds, none is on quality" if gates else "no gates were set"
        return _ungated(evidence.validate.quality, proved, held)
    return Verdict("Passed", (proved, "every gate holds"), "good")


def _ungated(quality: Quality, proved: str, held: str) -> Verdict:
    """Nobody said what would be good enough: the fact is told, and a large loss is not neutral."""
    mark: Mark = "warn" if quality.perplexity_ratio > 1 + _LARGE_LOSS else ""
    return Verdict("Proved", (proved, f"{held}; perplexity {figures.change(quality.perplexity_ratio)}"), mark)


def _proved(evidence: Evidence, proof: bool | None) -> str:
    subject = "the plan" if evidence.plan is not None else "the checkpoint"
    if proof is True:
        return f"the graph computes what {subject} says"
    return f"the graph does not compute what {subject} says" if proof is False else "the graph proof was not run"


def _missed(gate: Gate) -> str:
    """`max perplexity increase is 12.00 %, its limit 5.00 %`."""
    return f"{gate_name(gate)} is {gate_value(gate, gate.value)}, its limit {gate_value(gate, gate.limit)}"


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


def _quality(validate: Validation | None) -> Tile:
    if validate is None:
        return Tile("Perplexity", figures.MISSING, "foldrank validate", "quiet")
    quality = validate.quality
    return Tile(
        "Perplexity",
        figures.change(quality.perplexity_ratio),
        f"{figures.significant(quality.dense_perplexity)} → {figures.significant(quality.perplexity)}; "
        f"top-1 agreement {figures.percent(quality.top1_agreement)}",
    )


def _speed(bench: Bench | None) -> Tile:
    if bench is None or all(row.phase != "decode" for row in bench.speedups):
        return Tile("Decode speed", figures.MISSING, "foldrank bench", "quiet")
    row = headline(bench.speedups)
    detail = f"95 % interval {figures.interval(row.ci95)}; ideal {figures.times(row.ideal)}; {workload(row)}"
    if row.stable is False:
        why = f": {row.unstable_because}" if row.unstable_because else ""
        return Tile("Decode speed", figures.times(row.ratio), f"{detail}; unstable pairs{why}", "warn")
    return Tile("Decode speed", figures.times(row.ratio), detail)


def _proof(validate: Validation | None) -> Tile:
    if validate is None:
        return Tile("Graph proof", figures.MISSING, "foldrank validate", "quiet")
    graph = validate.graph
    if graph.max_relative_error is None and graph.passed is None:
        return Tile("Graph proof", figures.MISSING, "foldrank validate", "quiet")
    mark: Mark = "warn" if graph.passed is None else "good" if graph.passed else "bad"
    word = "not run" if graph.passed is None else "passed" if graph.passed else "failed"
    return Tile(
        "Graph proof",
        word,
        f"largest relative error {figures.error(graph.max_relative_error)}; "
        f"argmax agreement {figures.percent(graph.argmax_agreement, 2)} "
        f"over {figures.whole(graph.positions)} positions",
        mark,
    )
