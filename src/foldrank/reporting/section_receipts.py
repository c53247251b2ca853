"""What each graph pass did."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from foldrank.reporting import figures, lookup
from foldrank.reporting.evidence import Evidence
from foldrank.reporting.parts import Cell, Fold, Missing, Section, Text, table


def receipts(evidence: Evidence) -> Section:
    """What each pass did, in order, behind a line for each pass."""
    found = evidence.receipts if isinstance(evidence.receipts, list) else lookup.at(evidence.receipts, "receipts")
    rows = lookup.rows({"rows": found}, "rows")
    if not rows:
        missing = (
            Missing("What the passes did was", "foldrank apply BUNDLE PLAN -o DIR")
            if evidence.plan is not None
            else Text("No passes ran: this is a dense bundle.")
        )
        return Section("receipts", "Receipts", (missing,))
    runs = [list(group) for _, group in itertools.groupby(rows, key=lambda row: str(row.get("pass", "?")))]
    return Section("receipts", "Receipts", tuple(_receipt(run) for run in runs))


def _receipt(run: list[Mapping[str, Any]]) -> Fold:
    """One pass: its changes as a table."""
    before, after = (sum(lookup.number(row, key) or 0 for row in run) for key in ("bytes_before", "bytes_after"))
    moved = f", {figures.size(before)} → {figures.size(after)}" if before or after else ""
    summary = (
        f"{str(run[0].get('pass', '?')).replace('_', ' ')} ({run[0].get('effect', 'effect not told')}): "
        f"{len(run)} change{'s' if len(run) != 1 else ''}{moved}"
    )
    rows: list[list[str | Cell]] = [
        [
            str(row.get("where", "?")),
            *(figures.size(lookup.number(row, key)) for key in ("bytes_before", "bytes_after")),
            str(row.get("reason", "")),
        ]
        for row in run
    ]
    return Fold(summary, (table(("where", "before", "after", "reason"), "lrrl", rows),))
