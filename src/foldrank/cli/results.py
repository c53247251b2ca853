"""Showing what validate and bench found, and the exit code it means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.text import Text

from foldrank.cli import output
from foldrank.edits.low_rank import rank_limit

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from foldrank.plans.solver.costs import CostTable
    from foldrank.reports.bench import Bench, Speedup
    from foldrank.reports.form import Gate
    from foldrank.reports.tasks import Sample, Tasks
    from foldrank.reports.validate import GraphProof, Validation


def show_validation(report: Validation) -> None:
    """The two proofs, apart."""
    from foldrank.runtime.proof.validation import blame

    graph, quality = report.graph, report.quality
    output.say(f"graph proof: {_STATE[graph.passed]}{_proof_figures(graph)}{blame(graph.fault)}")
    output.say(f"quality: perplexity {quality.dense_perplexity:.2f} -> {quality.perplexity:.2f} "
               f"(x{quality.perplexity_ratio:.3f}), KL {quality.kl_nats:.4f} nats, "
               f"top-1 agreement {quality.top1_agreement:.1%}, over {quality.tokens:,} tokens"
               + output.opening(None if report.text is None else report.text.bos))
    if report.tasks is not None:
        show_tasks(report.tasks)
    show_written(report.samples or ())
    show_gates(report.gates)


def show_written(samples: Sequence[Sample], most: int = 2) -> None:
    """What both write after the same words, one below the other; more of it is in the report."""
    for sample in samples[:most]:
        lines = ((name, " ".join(words.split())) for name, words in (
            ("after ", sample.prompt[-_PROMPT:]), ("dense ", sample.dense), ("bundle", sample.bundle)))
        for name, words in lines:
            output.console.print(Text.assemble((f"{name} ", "bold"), words), soft_wrap=True)


_PROMPT = 100
"""Characters of the end of a prompt that are shown."""

def show_tasks(found: Tasks) -> None:
    """Accuracies of dense and bundle, and their difference in points; then the answers to questions."""
    output.table(f"tasks, of {found.choices} choices (lm-eval {found.lm_eval})", (
        "task", "back end", "items", "dense, %", "bundle, %", "difference", "95 % interval"), (
        (row.task, row.backend, row.items, *(f"{100 * a.accuracy:.1f} ± {100 * a.standard_error:.1f}"
                                             for a in (row.dense, row.bundle)),
         f"{100 * row.difference:+.1f}", f"{100 * row.ci95[0]:+.1f}..{100 * row.ci95[1]:+.1f}") for row in found.rows))
    for backend, why in found.missing.items():
        output.say(f"{backend}: unavailable ({why})")
    chat = found.chat
    output.say(f"chat: of {chat.tokens:,} tokens of dense's answers to {chat.questions} questions {chat.equal:.1%} are "
               f"written in the same place, {chat.prefix_tokens:.1f} in a row from the start")


_STATE = {True: "passed", False: "FAILED", None: "not run"}


def _proof_figures(graph: GraphProof) -> str:
    if graph.max_relative_error is None or graph.argmax_agreement is None:
        return ""
    return (f" (against {graph.reference}: largest error {graph.max_relative_error:.1e} of the largest logit, "
            f"argmax agreement {graph.argmax_agreement:.2%} over {graph.positions:,} positions)")


def show_selftest(found: dict[str, Any]) -> None:
    """Each check with its limit."""
    output.say(f"self-test on {found['provider']} ({found['dtype']}), against {found['reference']}: {found['verdict']}")
    output.table("checks", ("check", "positions", "measure", "value", "limit", "argmax agreement", ""), (
        (check["name"], check["positions"], check["measure"], f"{check['value']:.2e}", f"{check['limit']:.0e}",
         f"{check['argmax_agreement']:.2%}", "passed" if check["passed"] else "FAILED") for check in found["checks"]))


def show_bench(report: Bench) -> None:
    """Ratios with their intervals, ideals beside them."""
    null = report.null_test
    output.say(f"null test (dense against dense): {null.ratio:.3f} [{null.ci95[0]:.3f}, {null.ci95[1]:.3f}]")
    output.table("speed, compressed over dense", ("phase", "engine", "workload", "ratio", "95 % interval", "ideal",
                                                  "realised/ideal"), map(_speedup_row, report.speedups))
    for what, why in (report.method.left_out if report.method else {}).items():
        output.say(f"{what}: not timed ({why})")
    if peers := report.peers:
        output.table(f"peers against our bundles in {peers.engine}",
                     ("peer", "against", "phase", "prompt", "batch", "its ms", "our ms", "its time over ours",
                      "95 % interval"),
                     ((p.peer, p.against, p.phase, p.prompt_tokens, p.batch, p.theirs_ms, p.ours_ms, f"{p.ratio:.2f}",
                       f"{p.ci95[0]:.2f}..{p.ci95[1]:.2f}") for p in peers.entries))
        for peer, what in {p.peer: p.what for p in peers.entries if p.what}.items():
            output.say(f"{peer}: {what}")
        for peer, reason in peers.unavailable.items():
            output.say(f"{peer}: unavailable ({reason})")
    show_gates(report.gates)


def cost_rows(table: CostTable) -> list[dict[str, Any]]:
    """Per shape: time of W and of the smallest pair, and up to which rank pairs are no slower, and no larger."""
    return [
        {"shape": list(timing.shape), "dense_ms": timing.dense_ms,
         "smallest_pair_ms": timing.pair_ms[min(timing.pair_ms)], "smallest_rank": min(timing.pair_ms),
         "pays_to_rank": timing.pays_to, "saves_to_rank": rank_limit(*timing.shape)}
        for timing in table.timings
    ]


def show_costs(table: CostTable) -> None:
    """Where pairs pay: what is left of the smallest pair's time is the overhead of small products."""
    output.table("products, milliseconds", ("in", "out", "dense", "smallest pair", "of rank", "pairs no slower to rank",
                                            "no larger to rank"),
                 ((*row["shape"], row["dense_ms"], row["smallest_pair_ms"], row["smallest_rank"], row["pays_to_rank"],
                   row["saves_to_rank"]) for row in cost_rows(table)))


def show_texts(found: dict[str, Any]) -> None:
    """Each prompt under a rule of its own, an arrow before its continuation; the speed of all at the end."""
    rows = found["rows"]
    for number, row in enumerate(rows, start=1):
        counts = f"{row['prompt_tokens']:,} tokens and {len(row['tokens']):,} new"
        output.console.rule(f"prompt {number} of {len(rows)}: {counts}", align="left", style="dim")
        output.console.print(Text.assemble((row["prompt"], "bold"), "\n→", row["text"]), soft_wrap=True)
    output.console.rule(style="dim")
    output.say(f"{found['tokens_per_second']:,.0f} new tokens a second in all, {found['seconds']:.2f} s "
               f"({found['engine']} on {found['provider']})")


def show_gates(gates: Iterable[Gate]) -> None:
    """Each gate with its limit and value."""
    for gate in gates:
        output.say(f"gate {gate.name}: {_STATE[gate.passed]} (limit {output.cell(gate.limit)}, "
                   f"value {output.cell(gate.value)})")


def _speedup_row(row: Speedup) -> tuple[Any, ...]:
    low, high = row.ci95
    told = {"prompt": row.prompt_tokens, "context": row.context_tokens, "batch": row.batch}
    workload = ", ".join(f"{name} {value}" for name, value in told.items() if value is not None)
    return (row.phase, row.engine or "", workload, row.ratio, f"{low:.3f}..{high:.3f}", row.ideal,
            row.realised_over_ideal)
