"""Where the bundle comes from, where it was measured, and what each pass did."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from foldrank.reporting import figures, lookup
from foldrank.reporting.evidence import Evidence
from foldrank.reporting.parts import Cell, Fold, Missing, Part, Section, Text, table


def origin(evidence: Evidence) -> Section:
    """Provenance and environment."""
    manifest, plan = evidence.manifest, evidence.plan
    facts = {
        "source": evidence.name,
        "architecture": evidence.architecture,
        "sha256 of the source's config.json": lookup.text(manifest, "source", "config_sha256"),
        "exporter": lookup.text(manifest, "exporter"),
        "stored type": lookup.text(manifest, "dtype"),
        "created": lookup.text(manifest, "created"),
        "command": lookup.text(manifest, "command"),
        "seed": _text(lookup.at(manifest, "seed")),
        "plan digest": lookup.text(plan, "digest"),
        "calibration text": lookup.text(plan, "calibration", "name"),
        "sha256 of the calibration text": lookup.text(plan, "calibration", "sha256"),
        "calibration tokens": _text(lookup.at(plan, "calibration", "tokens")),
    }
    rows = [[key, value] for key, value in facts.items() if value]
    parts: list[Part] = [table((), "ll", [list(row) for row in rows]), *_environment(evidence.bench)]
    versions = {**lookup.pairs(plan, "versions"), **lookup.pairs(manifest, "versions")}
    if versions:
        parts.append(
            Fold("Versions", (table(("part", "version"), "ll", [[k, str(v)] for k, v in sorted(versions.items())]),))
        )
    files = lookup.pairs(manifest, "files")
    if files:
        listed = [
            [name, figures.size(lookup.number(entry, "bytes")), lookup.text(entry, "sha256") or "?"]
            for name, entry in sorted(files.items())
            if name not in ("report.html", "README.md")
        ]
        parts.append(
            Fold(
                f"{len(listed)} files and their sha256",
                (table(("file", "size", "sha256"), "lrl", [list(r) for r in listed]),),
            )
        )
    return Section("origin", "Provenance and environment", tuple(parts))


def _environment(bench: Any) -> list[Part]:
    found = flat(lookup.pairs(bench, "environment"))
    if not found:
        return [Text("No environment is recorded: nothing was timed.")]
    return [
        Fold(
            "The machine the timings come from",
            (table((), "ll", [[key.replace("_", " "), value] for key, value in found]),),
        )
    ]


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


def flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested JSON as (dotted key, text) lines; long lists of plain values on one line."""
    if isinstance(value, Mapping):
        return [
            line
            for key, item in sorted(value.items())
            for line in flat(item, f"{prefix}.{key}" if prefix else str(key))
        ]
    if isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        return [line for i, item in enumerate(value) for line in flat(item, f"{prefix}.{i}")]
    return [(prefix, _text(value) or "none")]


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, list):
        return ", ".join(_text(item) or "none" for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)
