"""Where the bundle comes from, and the machine and versions it was made and measured with."""

from __future__ import annotations

from typing import Any

from foldrank.reporting import figures, lookup
from foldrank.reporting.evidence import Evidence
from foldrank.reporting.export_proved import export_proved
from foldrank.reporting.nested import lines, named, shown
from foldrank.reporting.parts import Fold, Part, Section, Text, table
from foldrank.reporting.reproduced import reproduced
from foldrank.reports.bench import Bench
from foldrank.reports.form import plain

_WRITTEN_WITH_THE_PAGE = ("report.html", "README.md")


def origin(evidence: Evidence) -> Section:
    """Facts first; machine, versions and files behind a line each."""
    parts = [named(_facts(evidence)), *reproduced(evidence), *_machine(evidence.bench), *_versions(evidence),
             *_files(evidence.manifest)]
    return Section("origin", "Provenance and environment", tuple(parts))


def _facts(evidence: Evidence) -> list[tuple[str, str]]:
    manifest, plan = evidence.manifest, evidence.plan
    text = evidence.validate.text if evidence.validate is not None else None
    facts = {
        "source": evidence.name,
        "architecture": evidence.architecture,
        "sha256 of the source's config.json": lookup.text(manifest, "source", "config_sha256"),
        "sha256 of the source's weights": lookup.text(manifest, "source", "weights_sha256"),
        "exporter": lookup.text(manifest, "exporter"),
        "why this exporter": lookup.text(manifest, "exporter_reason"),
        "dense export": export_proved(manifest),
        "note": lookup.sentences(manifest, "notes"),
        "stored type": lookup.text(manifest, "dtype"),
        "created": lookup.text(manifest, "created"),
        "command": lookup.text(manifest, "command"),
        "seed": lookup.integer(manifest, "seed"),
        "plan digest": lookup.text(plan, "digest"),
        "calibration text": lookup.text(plan, "calibration", "name"),
        "sha256 of the calibration text": lookup.text(plan, "calibration", "sha256"),
        "calibration tokens": lookup.integer(plan, "calibration", "tokens"),
        "calibration windows open with the token": lookup.integer(plan, "calibration", "bos"),
        "held-out text": text and text.name,
        "sha256 of the held-out text": text and text.sha256,
        "held-out windows open with the token": text and text.bos,
    }
    return [(name, shown(name, value)) for name, value in facts.items() if value is not None]


def _machine(bench: Bench | None) -> list[Part]:
    if bench is None:
        return [Text("No machine is recorded: nothing was timed.")]
    told = lines({key: value for key, value in plain(bench.environment).items() if key != "versions"})
    return [Fold("The machine the timings come from", (named(told),))]


def _versions(evidence: Evidence) -> list[Part]:
    """One row a library, one column for each stage that recorded its versions."""
    stages = {
        "planned": lookup.pairs(evidence.plan, "versions"),
        "made": lookup.pairs(evidence.manifest, "versions"),
        "validated": (evidence.validate.versions or {}) if evidence.validate is not None else {},
        "timed": evidence.bench.environment.versions if evidence.bench is not None else {},
    }
    told = {stage: found for stage, found in stages.items() if found}
    if not told:
        return []
    parts = sorted({part for found in told.values() for part in found})
    rows = [[part, *(str(found.get(part, "")) for found in told.values())] for part in parts]
    return [Fold("Versions", (table(("library", *told), "l" * (len(told) + 1), [list(row) for row in rows]),))]


def _files(manifest: Any) -> list[Part]:
    rows = [
        [name, figures.size(lookup.number(entry, "bytes")), lookup.text(entry, "sha256") or "?"]
        for name, entry in sorted(lookup.pairs(manifest, "files").items())
        if name not in _WRITTEN_WITH_THE_PAGE
    ]
    if not rows:
        return []
    files = table(("file", "size", "sha256"), "lrl", [list(row) for row in rows])
    return [Fold(f"{len(rows)} files and their sha256", (files,))]
