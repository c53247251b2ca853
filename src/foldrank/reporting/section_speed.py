"""Speed: what was won, beside what could be won, and every row it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foldrank.reporting import figures, lookup
from foldrank.reporting.absent import absent
from foldrank.reporting.context_chart import against_context
from foldrank.reporting.evidence import Evidence
from foldrank.reporting.gates import gates
from foldrank.reporting.nested import lines, named
from foldrank.reporting.parts import Cell, Fold, Mark, Missing, Part, Section, Table, Text, table
from foldrank.reporting.roofline import roofline
from foldrank.reporting.section_placement import placement_parts
from foldrank.reporting.speed_chart import before_after, speedups
from foldrank.reporting.workload import workload


def speed(evidence: Evidence) -> Section:
    """Pictures, ratios, null test, rows."""
    title, bench = "What it won in speed", evidence.bench
    measured, rows = lookup.rows(bench, "speedups"), lookup.rows(bench, "rows")
    if bench is None or not (measured or rows):
        return Section("speed", title, (Missing("Speed was", "foldrank bench DIR --baseline DENSE"),))
    parts: list[Part] = [
        *speedups(measured),
        *([_ratios(measured)] if measured else []),
        _null(bench),
        *before_after(rows),
        *roofline(bench),
        *against_context(rows),
        *absent(evidence),
    ]
    if lookup.rows(bench, "gates"):
        parts += gates(bench)
    if rows:
        parts.append(Fold(f"All {len(rows)} rows: times, memory, placement", (_rows(rows),)))
    parts += placement_parts(bench)
    if method := lookup.pairs(bench, "method"):
        parts.append(Fold("How it was timed", (named(lines(method)),)))
    return Section("speed", title, tuple(parts))


def _ratios(measured: list[Mapping[str, Any]]) -> Table:
    """The ratios; why one is unstable, and what else the bench notes about it, stands in its row."""
    notes = [_note(row) for row in measured]
    rows: list[list[str | Cell]] = []
    for row, note in zip(measured, notes, strict=True):
        cells: list[str | Cell] = [
            workload(row),
            Cell(figures.times(lookup.number(row, "ratio")), _unstable(row)),
            figures.interval(lookup.numbers(row, "ci95")) or figures.MISSING,
            figures.times(lookup.number(row, "ideal")),
            figures.percent(lookup.number(row, "realised_over_ideal"), 0),
        ]
        rows.append([*cells, note] if any(notes) else cells)
    head = ("workload", "measured", "95 % interval", "ideal", "of ideal", *(("note",) if any(notes) else ()))
    return table(head, "lrrrrl"[: len(head)], rows, _LEGEND)


_LEGEND = (
    "Median over pairs of dense and this bundle, taken in turn. Ideal: dense over this bundle, in bytes read per token "
    "(decode) or in arithmetic (prefill). ! marks ratios that are not stable; the note says why."
)


def _note(row: Mapping[str, Any]) -> str:
    """Why a row is unstable, then what the bench notes about it."""
    why = (lookup.text(row, "unstable_because") or "not stable") if row.get("stable") is False else None
    missing = None if lookup.number(row, "ratio") is not None else "no ratio was recorded"
    return "; ".join(part for part in (why, lookup.text(row, "note"), missing) if part)


def _unstable(row: Mapping[str, Any]) -> Mark:
    return "warn" if row.get("stable") is False else ""


def _null(bench: Any) -> Part:
    ratio, bounds = lookup.number(bench, "null_test", "ratio"), lookup.numbers(bench, "null_test", "ci95")
    if ratio is None or len(bounds) != 2:
        return Text("The null test (dense against itself) was not run: small differences mean nothing.")
    words = f"Null test, dense against itself: {ratio:.3f}, 95 % interval {bounds[0]:.3f} to {bounds[1]:.3f}. "
    if bounds[0] <= 1 <= bounds[1]:
        words += "It contains 1, as it must; a ratio within this interval is no difference."
    else:
        words += "It does not contain 1: the machine was not quiet, and ratios this close to 1 mean nothing."
    every, missed = len(lookup.rows(bench, "null_test", "rows")), lookup.integer(bench, "null_test", "missed")
    if every > 1 and missed is not None:
        words += f" Of {every} null tests over all workloads, {every - missed} contain 1."
    return Text(words)


def _rows(rows: list[Mapping[str, Any]]) -> Table:
    cells: list[list[str | Cell]] = []
    for row in rows:
        unstable = _unstable(row)
        cells.append(
            [
                workload({**row, "phase": None}),
                str(row.get("bundle", "?")),
                str(row.get("provider", "?")),
                Cell(figures.milliseconds(lookup.number(row, "ttft_ms")), unstable),
                Cell(figures.milliseconds(lookup.number(row, "tpot_ms")), unstable),
                figures.significant(lookup.number(row, "decode_tokens_per_s")),
                figures.size(lookup.number(row, "bytes_per_token")),
                figures.percent(lookup.number(row, "bandwidth_use"), 0),
                figures.size(lookup.number(row, "peak_rss_bytes")),
                placement(row.get("placement")),
                _note({"ratio": 1.0, **row}),
            ]
        )
    return table(
        (
            "workload",
            "bundle",
            "provider",
            "first token",
            "per token",
            "tokens/s",
            "bytes/token",
            "bandwidth use",
            "peak memory",
            "nodes run on",
            "note",
        ),
        "lllrrrrrrll",
        cells,
        "Medians; raw samples are in reports/bench.json. ! marks a row that is not stable; the note says why.",
    )


def placement(value: Any) -> str:
    """Where nodes ran: `CPU 139`, several with commas; text as it is."""
    if isinstance(value, Mapping):
        return (
            ", ".join(
                f"{str(name).removesuffix('ExecutionProvider')} {count}"
                for name, count in sorted(value.items())
                if isinstance(count, int | str)
            )
            or "not told"
        )
    return value if isinstance(value, str) and value else "not told"
