"""What each graph pass did."""

from __future__ import annotations

import itertools

from foldrank.reporting import figures
from foldrank.reporting.evidence import Evidence
from foldrank.reporting.parts import Cell, Fold, Section, Text, not_there, table
from foldrank.reports.receipts import Row


def receipts(evidence: Evidence) -> Section:
    """What each pass did, in order, behind a line for each pass."""
    rows = evidence.receipts.receipts if evidence.receipts is not None else []
    misfit = evidence.misfits.get("receipts")
    if not rows:
        missing = (
            not_there("What the passes did was", "foldrank apply BUNDLE PLAN -o DIR", misfit)
            if evidence.plan is not None or misfit is not None
            else Text("No passes ran: this is a dense bundle.")
        )
        return Section("receipts", "Receipts", (missing,))
    runs = [list(group) for _, group in itertools.groupby(rows, key=lambda row: row.name)]
    return Section("receipts", "Receipts", tuple(_receipt(run) for run in runs))


def _receipt(run: list[Row]) -> Fold:
    """One pass: its changes as a table."""
    before, after = sum(row.bytes_before for row in run), sum(row.bytes_after for row in run)
    moved = f", {figures.size(before)} → {figures.size(after)}" if before or after else ""
    summary = (
        f"{run[0].name.replace('_', ' ')} ({run[0].effect}): "
        f"{len(run)} change{'s' if len(run) != 1 else ''}{moved}"
    )
    rows: list[list[str | Cell]] = [
        [row.where, figures.size(row.bytes_before), figures.size(row.bytes_after), row.reason] for row in run
    ]
    return Fold(summary, (table(("where", "before", "after", "reason"), "lrrl", rows),))
