"""diff: how two plans, or two bundles, differ."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from foldrank.bundle.bundle import MANIFEST, Bundle
from foldrank.errors import SourceError
from foldrank.graph.anatomy import anatomy_of
from foldrank.planfile.plan import Plan
from foldrank.reports.validate import FORM


def diff(a: str | Path, b: str | Path) -> dict[str, Any]:
    """Compare: {"kind", "same", "differences": [{"what", "a", "b"}]}, with None for what one side lacks.

    Raises SourceError where the two are not of one kind, and what reading them raises.
    """
    kinds = _kind(Path(a).expanduser()), _kind(Path(b).expanduser())
    if kinds[0] != kinds[1]:
        raise SourceError(f"{a}, {b}", f"one is a {kinds[0]}, the other a {kinds[1]}", "give two plans or two bundles")
    facts = _plan_facts if kinds[0] == "plan" else _bundle_facts
    left, right = facts(Path(a).expanduser()), facts(Path(b).expanduser())
    found = [
        {"what": what, "a": left.get(what), "b": right.get(what)}
        for what in [*left, *(k for k in right if k not in left)] if left.get(what) != right.get(what)
    ]
    return {"kind": kinds[0], "same": not found, "differences": found}


def _kind(path: Path) -> str:
    if (path / MANIFEST).is_file():
        return "bundle"
    if (path / "plan.json").is_file():
        return "plan"
    raise SourceError(path, "neither a plan nor a bundle", "give two plans or two bundles")


def _plan_facts(path: Path) -> dict[str, Any]:
    plan = Plan.read(path)
    document = plan.document
    facts: dict[str, Any] = {"source": document.source.name, "source.config": document.source.config_sha256}
    if document.calibration:
        facts |= {"calibration": document.calibration.name, "calibration.sha256": document.calibration.sha256,
                  "calibration.tokens": document.calibration.tokens, "calibration.seed": document.calibration.seed}
    for number, step in enumerate(document.steps, 1):
        facts[f"step {number}"] = step.method
        facts[f"step {number}.keep"] = step.keep.reached
        facts |= {f"step {number}.{k}": v for k, v in sorted(step.settings.items()) if k != "keep"}
    for edit in document.edits:
        facts |= edit.facts(lambda names: hash_of(*(plan.arrays[name].tobytes() for name in names)))
    return facts


def hash_of(*parts: bytes) -> str:
    """First 12 hex digits of the sha256 of the parts in a row."""
    import hashlib

    return hashlib.sha256(b"".join(parts)).hexdigest()[:12]


def _bundle_facts(path: Path) -> dict[str, Any]:
    bundle = Bundle.open(path)
    facts: dict[str, Any] = {"exporter": bundle.manifest.exporter, "dtype": bundle.manifest.dtype}
    facts |= {f"source.{k}": v for k, v in sorted(bundle.manifest.source.items())}
    facts["blocks"] = len(anatomy_of(bundle.model).blocks)
    facts["bytes"] = sum(entry.bytes for entry in bundle.manifest.files.values())
    if (report := FORM.read(bundle)) is not None:
        quality = sorted(dataclasses.asdict(report.quality).items())
        facts |= {f"quality.{k}": v for k, v in quality if isinstance(v, int | float)}
    facts |= {f"file {name}": entry.sha256[:12] for name, entry in sorted(bundle.manifest.files.items())}
    return facts
