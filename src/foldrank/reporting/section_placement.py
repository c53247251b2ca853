"""Where nodes ran: per bundle and provider, with their time, copies between providers, casts, and what was fused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foldrank.reporting import figures, lookup
from foldrank.reporting.parts import Cell, Fold, Part, Table, Text, table


def placement_parts(bench: Any) -> list[Part]:
    """Tables for the speed section; none where the bench told nothing."""
    told = lookup.rows(bench, "placement")
    parts: list[Part] = [_nodes(told)] if told else []
    if told and lookup.pairs(told[-1], "operators", "before"):
        parts.append(Fold("Operators before and after ONNX Runtime's fusions", (_operators(told[-1]),)))
    energy = [row for row in lookup.rows(bench, "energy") if lookup.number(row, "joules_per_token") is not None]
    if energy:
        parts.append(_energy(energy))
    return parts


def _nodes(told: list[Mapping[str, Any]]) -> Table:
    rows: list[list[str | Cell]] = []
    for row in told:
        nodes, times = lookup.pairs(row, "nodes"), lookup.pairs(row, "step_us")
        for provider, count in sorted(nodes.items()):
            taken = lookup.number(times, provider)
            copies = lookup.integer(row, "memcpy")
            rows.append([
                str(row.get("bundle", "?")), provider.removesuffix("ExecutionProvider"), str(count),
                figures.milliseconds(None if taken is None else taken / 1e3), figures.whole(copies),
                figures.whole(lookup.integer(row, "casts")),
            ])
    return table(
        ("bundle", "provider", "nodes", "time a step", "copies between providers", "casts"), "llrrrr", rows,
        "One decoding step under ONNX Runtime's profiler, which slows it down; on a GPU times are of launches.",
    )


def _operators(row: Mapping[str, Any]) -> Table:
    before, after = (lookup.pairs(row, "operators", side) for side in ("before", "after"))
    taken = lookup.pairs(row, "operator_us")
    rows: list[list[str | Cell]] = [
        [name, str(before.get(name, 0)), str(after.get(name, 0)),
         figures.milliseconds(float(taken[name]) / 1e3) if name in taken else figures.MISSING]
        for name in sorted({*before, *after}, key=lambda name: (-float(taken.get(name, 0)), name))
    ]
    return table(("operator", "in the graph", "as run", "time a step"), "lrrr", rows, f"Of {row.get('bundle', '?')}.")


def _energy(rows: list[Mapping[str, Any]]) -> Part:
    said = "; ".join(
        f"{row.get('bundle', '?')} in {row.get('engine', '?')} "
        f"{figures.significant(lookup.number(row, 'joules_per_token'))} J" for row in rows
    )
    return Text(f"Energy a token, prompts' reading with it ({lookup.text(rows[0], 'energy_source') or '?'}): {said}.")
