"""Speed: what was won, beside what could be won, and every row it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foldrank.reporting import figures, lookup
from foldrank.reporting.evidence import Evidence
from foldrank.reporting.parts import Cell, Fold, Missing, Part, Section, Table, Text, table
from foldrank.reporting.section_proof import gates
from foldrank.reporting.speed_chart import speedups
from foldrank.reporting.workload import workload


def speed(evidence: Evidence) -> Section:
    """Picture, ratios, null test, rows."""
    title, bench = "What it won in speed", evidence.bench
    measured, rows = lookup.rows(bench, "speedups"), lookup.rows(bench, "rows")
    if bench is None or not (measured or rows):
        return Section("speed", title, (Missing("Speed was", "foldrank bench DIR --baseline DENSE"),))
    parts: list[Part] = [*speedups(measured), *([_ratios(measured)] if measured else []), _null(bench)]
    if lookup.rows(bench, "gates"):
        parts += gates(bench)
    if rows:
        parts.append(Fold(f"All {len(rows)} rows: times, memory, placement", (_rows(rows),)))
    return Section("speed", title, tuple(parts))


def _ratios(measured: list[Mapping[str, Any]]) -> Table:
    rows: list[list[str | Cell]] = []
    for row in measured:
        share = lookup.number(row, "realised_over_ideal")
        above = share is not None and share > 1.02
        rows.append([
            workload(row), Cell(figures.times(lookup.number(row, "ratio")), _unstable(row)),
            figures.interval(lookup.numbers(row, "ci95")) or figures.MISSING, figures.times(lookup.number(row, "ideal")),
            Cell(figures.percent(share, 0) + (" above ideal" if above else ""), "warn" if above else "")])
    return table(("workload", "measured", "95 % interval", "ideal", "of ideal"), "lrrrr", rows,
                 "Median of paired runs. Ideal: bytes read per token (decode) or arithmetic (prefill), dense over this bundle. "
                 "A measured ratio above ideal needs an explanation.")


def _unstable(row: Mapping[str, Any]) -> Any:
    return "warn" if row.get("unstable") is True or row.get("stable") is False else ""


def _null(bench: Any) -> Part:
    ratio, bounds = lookup.number(bench, "null_test", "ratio"), lookup.numbers(bench, "null_test", "ci95")
    if ratio is None or len(bounds) != 2:
        return Text("The null test (dense against itself) was not run: small differences mean nothing.")
    holds = bounds[0] <= 1 <= bounds[1]
    words = f"Null test, dense against itself: {ratio:.3f}, 95 % interval {bounds[0]:.3f} to {bounds[1]:.3f}. "
    return Text(words + ("It contains 1, as it must." if holds else
                         "It does not contain 1: the machine was not quiet, and ratios this close to 1 mean nothing."))


def _rows(rows: list[Mapping[str, Any]]) -> Table:
    cells: list[list[str | Cell]] = []
    for row in rows:
        unstable = _unstable(row)
        cells.append([
            str(row.get("bundle", "?")), str(row.get("provider", "?")), workload({**row, "phase": None}),
            Cell(figures.milliseconds(lookup.number(row, "ttft_ms")), unstable),
            Cell(figures.milliseconds(lookup.number(row, "tpot_ms")), unstable),
            figures.significant(lookup.number(row, "decode_tokens_per_s")), figures.size(lookup.number(row, "bytes_per_token")),
            figures.percent(lookup.number(row, "bandwidth_use"), 0), figures.size(lookup.number(row, "peak_rss_bytes")),
            placement(row.get("placement"))])
    return table(("bundle", "provider", "workload", "first token", "per token", "tokens/s", "bytes/token", "bandwidth use",
                  "peak memory", "nodes run on"), "lllrrrrrrl", cells,
                 "Medians; raw samples are in reports/bench.json. ! marks a row whose samples vary by more than 3 %.")


def placement(value: Any) -> str:
    """Where nodes ran: `CPU 139`, several with commas; text as it is."""
    if isinstance(value, Mapping):
        return ", ".join(f"{str(name).removesuffix('ExecutionProvider')} {count}" for name, count in sorted(value.items())
                         if isinstance(count, int | str)) or figures.MISSING
    return value if isinstance(value, str) and value else figures.MISSING
