"""Digests of what foldrank wrote, file by file, without what a newer version changes though the output is the same.

Left out: versions, a plan's digest, the sizes and digests in a manifest (each file has a digest of its own here), the
part of a graph's name that hashes the plan, the key `schema` of a report. Knows files; knows nothing of foldrank.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

_NAMED_BY_HASH = re.compile(r"(?<=_)[0-9a-f]{12}$")
_OWN_VERSION = re.compile(r"(?<=foldrank )\d+\.\d+\.\d+\w*")
_HEX = re.compile(r"\b(?:[0-9a-f]{64}|[0-9a-f]{12})\b")


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file below the folder by relative POSIX path, sorted."""
    return {path.relative_to(folder).as_posix(): of_file(path, path.relative_to(folder).as_posix())
            for path in sorted(folder.rglob("*")) if path.is_file()}


def of_file(path: Path, name: str) -> str:
    """sha256 of a file that stands for `name` in a plan or a bundle, without what versions change."""
    return _sha256(_KNOWN.get(name, _KNOWN.get(path.suffix, bytes))(path.read_bytes()))


def of_value(value: Any) -> str:
    """sha256 of what a verb answered, as JSON with sorted keys."""
    return _sha256(_canonical(value))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=str).encode()


def _plan(data: bytes) -> bytes:
    return _canonical({k: v for k, v in json.loads(data).items() if k not in ("versions", "digest")})


def _manifest(data: bytes) -> bytes:
    manifest = {k: v for k, v in json.loads(data).items() if k != "versions"}
    manifest["files"] = sorted(manifest["files"])
    if manifest.get("weights"):
        manifest["weights"] = {**manifest["weights"], "files": sorted(manifest["weights"]["files"])}
    return _canonical(manifest)


def _report(data: bytes) -> bytes:
    """Without its schema; of a list under one key that list, as reports were before they had a schema."""
    report = json.loads(data)
    if isinstance(report, dict):
        rest = {k: v for k, v in report.items() if k != "schema"}
        (only,) = rest.values() if len(rest) == 1 else (None,)
        report = only if isinstance(only, list) else rest
    return _canonical(report)


def _graph(data: bytes) -> bytes:
    """The graph's own bytes; only the end of its name and its producer's version are taken out, where they stand."""
    model = onnx.load_from_string(data)
    name = model.graph.name
    data = data.replace(name.encode(), _NAMED_BY_HASH.sub("0" * 12, name).encode())
    version = model.producer_version.encode()
    return data.replace(b"\x1a" + bytes([len(version)]) + version, b"", 1) if version else data


def _text(data: bytes) -> bytes:
    return _HEX.sub("digest", _OWN_VERSION.sub("version", data.decode())).encode()


_KNOWN: dict[str, Callable[[bytes], bytes]] = {
    "plan.json": _plan, "plan/plan.json": _plan, "manifest.json": _manifest, ".onnx": _graph,
    "reports/receipts.json": _report, "reports/validate.json": _report, "reports/bench.json": _report,
    "README.md": _text, "report.html": _text,
}
