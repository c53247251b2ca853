"""Speed: what was won, beside what could be won, and every row it rests on."""

from __future__ import annotations

from foldrank.reporting import figures
from foldrank.reporting.absent import absent
from foldrank.reporting.context_chart import against_context
from foldrank.reporting.evidence import Evidence
from foldrank.reporting.gates import gates
from foldrank.reporting.nested import lines, named
from foldrank.reporting.parts import Cell, Fold, Mark, Part, Section, Table, Text, not_there, table
from foldrank.reporting.roofline import roofline
from foldrank.reporting.section_placement import placement_parts
from foldrank.reporting.speed_chart import before_after, speedups
from foldrank.reporting.workload import told, workload
from foldrank.reports.bench import NullTest, Peers, Row, Speedup
from foldrank.reports.form import plain


def speed(evidence: Evidence) -> Section:
    """Pictures, ratios, null test, rows."""
    title, bench = "What it won in speed", evidence.bench
    if bench is None or not (bench.speedups or bench.rows):
        missing = not_there("Speed was", "foldrank bench DIR --baseline DENSE", evidence.misfits.get("bench"))
        return Section("speed", title, (missing,))
    parts: list[Part] = [
        *speedups(bench.speedups),
        *([_ratios(bench.speedups)] if bench.speedups else []),
        _null(bench.null_test),
        *before_after(bench.rows),
        *roofline(bench),
        *against_context(bench.rows),
        *([_peers(bench.peers)] if bench.peers and bench.peers.entries else []),
        *absent(evidence, bench),
    ]
    if bench.gates:
        parts += gates(bench)
    if bench.rows:
        parts.append(Fold(f"All {len(bench.rows)} rows: times, memory, placement", (_rows(bench.rows),)))
    parts += placement_parts(bench)
    if bench.method:
        parts.append(Fold("How it was timed", (named(lines(plain(bench.method))),)))
    return Section("speed", title, tuple(parts))


def _ratios(measured: list[Speedup]) -> Table:
    """The ratios; why one is unstable, and what else the bench notes about it, stands in its row."""
    notes = ["; ".join(filter(None, (_why(row), row.note))) for row in measured]
    rows: list[list[str | Cell]] = []
    for row, note in zip(measured, notes, strict=True):
        cells: list[str | Cell] = [
            workload(row),
            Cell(figures.times(row.ratio), _unstable(row)),
            figures.interval(row.ci95),
            figures.times(row.ideal),
            figures.percent(row.realised_over_ideal, 0),
        ]
        rows.append([*cells, note] if any(notes) else cells)
    head = ("workload", "measured", "95 % interval", "ideal", "of ideal", *(("note",) if any(notes) else ()))
    return table(head, "lrrrrl"[: len(head)], rows, _LEGEND)


_LEGEND = (
    "Median over pairs of dense and this bundle, taken in turn. Ideal: dense over this bundle, in bytes read per token "
    "(decode) or in arithmetic (prefill). ! marks ratios that are not stable; the note says why."
)


def _why(row: Speedup | Row) -> str:
    """Why a row is unstable; nothing of one that is not."""
    return (row.unstable_because or "not stable") if row.stable is False else ""


def _unstable(row: Speedup | Row) -> Mark:
    return "warn" if row.stable is False else ""


def _null(null: NullTest) -> Part:
    low, high = null.ci95
    words = f"Null test, dense against itself: {null.ratio:.3f}, 95 % interval {low:.3f} to {high:.3f}. "
    if low <= 1 <= high:
        words += "It contains 1, as it must; a ratio within this interval is no difference."
    else:
        words += "It does not contain 1: the machine was not quiet, and ratios this close to 1 mean nothing."
    every = len(null.rows or ())
    if every > 1 and null.missed is not None:
        words += f" Of {every} null tests over all workloads, {every - null.missed} contain 1."
    return Text(words)


def _peers(peers: Peers) -> Table:
    """What a user would take otherwise, timed in turns with one of our bundles."""
    ran = {one.peer: one.what for one in peers.entries if one.what}
    return table(
        ("peer", "workload", "against our", "its time", "our time", "its time over ours", "95 % interval"), "lllrrrr",
        [[one.peer, f"{one.phase}, {told(None, one.prompt_tokens, None, one.batch)}", one.against,
          figures.milliseconds(one.theirs_ms), figures.milliseconds(one.ours_ms),
          Cell(figures.times(one.ratio), "" if one.stable else "warn"), figures.interval(one.ci95)]
         for one in peers.entries],
        " ".join((f"Ours in {peers.engine}. Medians; the ratio is the median over pairs taken in turn.",
                  *(f"{peer}: {what}." for peer, what in ran.items()))),
    )


def _rows(rows: list[Row]) -> Table:
    cells: list[list[str | Cell]] = [
        [
            workload(row),
            row.bundle,
            row.provider,
            Cell(figures.milliseconds(row.ttft_ms), _unstable(row)),
            Cell(figures.milliseconds(row.tpot_ms), _unstable(row)),
            figures.significant(row.decode_tokens_per_s),
            figures.size(row.bytes_per_token),
            figures.percent(row.bandwidth_use, 0),
            figures.size(row.peak_rss_bytes),
            placement(row.placement),
            _why(row),
        ]
        for row in rows
    ]
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


def placement(nodes: dict[str, int] | None) -> str:
    """Where nodes ran: `CPU 139`, several with commas."""
    counts = (f"{name.removesuffix('ExecutionProvider')} {count}" for name, count in sorted((nodes or {}).items()))
    return ", ".join(counts) or "not told"
