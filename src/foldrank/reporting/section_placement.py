"""Where nodes ran: per bundle and provider, with their time, copies between providers, casts, and what was fused."""

from __future__ import annotations

from foldrank.reporting import figures
from foldrank.reporting.parts import Cell, Fold, Part, Table, Text, table
from foldrank.reports.bench import Bench, Placement


def placement_parts(bench: Bench) -> list[Part]:
    """Tables for the speed section; none where the bench told nothing."""
    told = bench.placement or []
    parts: list[Part] = [_nodes(told)] if told else []
    if told and told[-1].operators.before:
        parts.append(Fold("Operators before and after ONNX Runtime's fusions", (_operators(told[-1]),)))
    if joules := [(row, found) for row in bench.energy or () if (found := row.joules_per_token) is not None]:
        said = "; ".join(f"{row.bundle} in {row.engine} {figures.significant(found)} J" for row, found in joules)
        parts.append(Text(f"Energy a token, prompts' reading with it ({joules[0][0].energy_source}): {said}."))
    return parts


def _nodes(told: list[Placement]) -> Table:
    rows: list[list[str | Cell]] = []
    for row in told:
        for provider, count in sorted(row.nodes.items()):
            taken = row.step_us.get(provider)
            rows.append([
                row.bundle, provider.removesuffix("ExecutionProvider"), str(count),
                figures.milliseconds(None if taken is None else taken / 1e3), figures.whole(row.memcpy),
                figures.whole(row.casts),
            ])
    return table(
        ("bundle", "provider", "nodes", "time a step", "copies between providers", "casts"), "llrrrr", rows,
        "One decoding step under ONNX Runtime's profiler, which slows it down; on a GPU times are of launches.",
    )


def _operators(row: Placement) -> Table:
    before, after, taken = row.operators.before, row.operators.after, row.operator_us
    rows: list[list[str | Cell]] = [
        [name, str(before.get(name, 0)), str(after.get(name, 0)),
         figures.milliseconds(taken[name] / 1e3) if name in taken else figures.MISSING]
        for name in sorted({*before, *after}, key=lambda name: (-taken.get(name, 0), name))
    ]
    return table(("operator", "in the graph", "as run", "time a step"), "lrrr", rows, f"Of {row.bundle}.")
