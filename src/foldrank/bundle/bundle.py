"""A bundle: a folder a runtime can load, with a manifest written last that names every file's sha256.

Knows files and their digests. Knows nothing of what stands in the graph.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from foldrank import strictjson
from foldrank.bundle.genai_settings import check_configs
from foldrank.clock import now
from foldrank.disk import journal
from foldrank.errors import BundleError, SourceError
from foldrank.verified import sha256_of

SCHEMA: Final = "foldrank.bundle/1"
MANIFEST = "manifest.json"
PACKAGED = "package"
"""The command of a bundle whose plan was left out."""
_PATIENCE_S = 5.0
"""How long a reader who found a bundle broken waits for a run that may be writing into it."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class FileEntry:
    """Digest and size of one file."""

    sha256: str
    bytes: int


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class WeightDigests:
    """sha256 of the weights W [in, out] as stored, by site, taken when the `files` they lie in had these digests."""

    files: dict[str, str]
    sites: dict[str, str]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Manifest:
    """What manifest.json holds. `files` maps relative POSIX paths; `source` names the checkpoint and its digests;
    `exporter_reason` says why the exporter is not the first choice, `export_proof` how far the dense graph was
    proved, `notes` what else whoever uses it must know, `padding` on which sides its rows may be padded
    (empty: on none; null: not known)."""

    command: str
    seed: int | None
    versions: dict[str, str]
    source: dict[str, str]
    exporter: str
    dtype: str
    created: str
    files: dict[str, FileEntry]
    weights: WeightDigests | None = None
    exporter_reason: str | None = None
    export_proof: dict[str, str | int | float | bool | None] | None = None
    notes: list[str] | None = None
    padding: list[Literal["left", "right"]] | None = None
    schema: Literal["foldrank.bundle/1"] = SCHEMA


_MANIFEST: TypeAdapter[Manifest] = TypeAdapter(Manifest)


@dataclass(frozen=True)
class Bundle:
    """A folder whose files are as its manifest says."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path | str, *, digest: Callable[[Path], str] | None = None) -> Bundle:
        """Read the manifest and prove every file against it. `digest` gives a file's sha256; by default one
        that was taken earlier of the file in its present state does. Raises SourceError (no folder, or unreadable),
        BundleError."""
        folder = Path(folder).expanduser().absolute()
        if not folder.is_dir():
            raise SourceError(folder, "no such folder", "give a bundle that `foldrank export` or `apply` wrote")
        digest = digest or sha256_of
        try:
            manifest = _proven(folder, digest)
        except (BundleError, OSError):  # another run may be writing: its files move while they are looked at
            manifest = _proven_alone(folder, digest)
        _settle(folder)
        check_configs({name: journal.current(folder, name) for name in manifest.files})
        return cls(folder, manifest)

    @property
    def model(self) -> Path:
        """The graph."""
        return self.path / "model.onnx"

    @property
    def plan(self) -> Path | None:
        """The plan folder of a compressed bundle."""
        return self.path / "plan" if "plan/plan.json" in self.manifest.files else None

    @property
    def weight_digests(self) -> dict[str, str]:
        """sha256 of weights by site, as far as they are known of the files as they are."""
        weights, files = self.manifest.weights, self.manifest.files
        if weights is None or weights.files != {n: files[n].sha256 for n in weights.files if n in files}:
            return {}
        return weights.sites

    def json(self, name: str) -> Any:
        """A JSON file of the bundle, or None where it is not there."""
        return strictjson.read(journal.current(self.path, name)) if name in self.manifest.files else None

    def with_files(self, files: Mapping[str, bytes]) -> Bundle:
        """Add or replace small files (reports), then the manifest as it lies there: others may have added to it since
        this was opened. All of it or, killed or without room, nothing. Raises BundleError where the manifest is gone or
        broken, SourceError where the bundle cannot be written."""
        try:
            with journal.locked(self.path):
                now = _read_manifest(self.path)
                given = {n: FileEntry(hashlib.sha256(data).hexdigest(), len(data)) for n, data in files.items()}
                manifest = replace(now, files={**now.files, **given})
                journal.replace_files(self.path, {**files, MANIFEST: _text(manifest).encode()})
        except OSError as error:
            what = f"cannot be written: {error.strerror or error}"
            raise SourceError(self.path, what, "it is as it was; make room, or copy the bundle to a writable place"
                              ) from None
        return Bundle(self.path, manifest)


def without_plan(bundle: Bundle, folder: Path) -> Bundle:
    """The bundle in another folder, empty so far, without its plan: what runs and tests itself, and can no longer be
    proved against its checkpoint. Files are copied: a data file of two names is one that no verb reads."""
    files = {name: entry for name, entry in bundle.manifest.files.items() if not name.startswith("plan/")}
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(journal.current(bundle.path, name), folder / name)
    manifest = replace(bundle.manifest, command=PACKAGED, files=files)
    (folder / MANIFEST).write_text(_text(manifest), encoding="utf-8")
    return Bundle(folder, manifest)


def source_differs(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str | None:
    """What tells two manifests' sources apart: their config.json, or their weights where both know them."""
    if ours.get("config_sha256") != theirs.get("config_sha256"):
        return "config.json differs"
    known = ours.get("weights_sha256"), theirs.get("weights_sha256")
    return "the weights differ" if None not in known and known[0] != known[1] else None


def seal(
    folder: Path, *, command: str, seed: int | None, source: Mapping[str, str], exporter: str, dtype: str,
    versions: Mapping[str, str], exporter_reason: str | None = None, known: Mapping[str, FileEntry] | None = None,
    weights: tuple[Iterable[str], Mapping[str, str]] | None = None, export_proof: Mapping[str, Any] | None = None,
    notes: Iterable[str] | None = None, padding: Iterable[Literal["left", "right"]] | None = None,
) -> Manifest:
    """Write the manifest of a staged folder, last. `known` spares digests that were taken while writing; `weights` are
    the files that weights lie in and the weights' digests by site."""
    known = known or {}
    files = {
        name: known.get(name) or _entry(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (name := path.relative_to(folder).as_posix()) != MANIFEST
    }
    manifest = Manifest(
        command=command, seed=seed, versions=dict(versions), source=dict(source), exporter=exporter, dtype=dtype,
        created=now(), files=files,
        weights=weights and WeightDigests({name: files[name].sha256 for name in weights[0]}, dict(weights[1])),
        exporter_reason=exporter_reason, export_proof=None if export_proof is None else dict(export_proof),
        notes=list(notes or ()) or None, padding=None if padding is None else list(padding),
    )
    (folder / MANIFEST).write_text(_text(manifest), encoding="utf-8")
    return manifest


def _entry(path: Path) -> FileEntry:
    return FileEntry(sha256_of(path), path.stat().st_size)


def _text(manifest: Manifest) -> str:
    return strictjson.dumps(_MANIFEST.dump_python(manifest, mode="json"))


def _proven(folder: Path, digest: Callable[[Path], str]) -> Manifest:
    manifest = _read_manifest(folder)
    if problems := _differences(folder, manifest, digest):
        raise BundleError(folder, " | ".join(problems[:5]), "export or apply again")
    return manifest


def _proven_alone(folder: Path, digest: Callable[[Path], str]) -> Manifest:
    try:
        with journal.locked(folder, wait_s=_PATIENCE_S):
            return _proven(folder, digest)
    except OSError as error:
        where, what = error.filename or folder, f"cannot be read: {error.strerror or error}"
        raise SourceError(where, what, "give a bundle whose every file you may read") from None


def _settle(folder: Path) -> None:
    """Finish what a killed run began, where this run may write and no other is at it; else it is read as it stands."""
    if any((folder / name).exists() for name in journal.OWN):
        with contextlib.suppress(OSError, SourceError), journal.locked(folder, wait_s=0.0):
            journal.finish(folder)


def _read_manifest(folder: Path) -> Manifest:
    path = journal.current(folder, MANIFEST)
    if not os.path.lexists(path):
        raise BundleError(folder, "not a bundle: it has no manifest.json", "make one with `foldrank export`")
    try:
        return _MANIFEST.validate_json(strictjson.dumps(strictjson.read(path, follow=False)), strict=True)
    except ValidationError as error:
        raise BundleError(path, strictjson.reasons(error), "export or apply again") from None
    except (OSError, strictjson.JsonError) as error:
        raise BundleError(path, str(error), "export or apply again") from None


def _differences(folder: Path, manifest: Manifest, digest: Callable[[Path], str]) -> list[str]:
    found = journal.files(folder)
    found.pop(MANIFEST, None)
    problems = [f"{name} is not in the manifest" for name in sorted(set(found) - set(manifest.files))]
    for name, entry in sorted(manifest.files.items()):
        path = found.get(name)
        if path is None:
            problems.append(f"{name} is missing")
        elif path.is_symlink() or not path.is_file():
            problems.append(f"{name} is not a plain file")
        elif path.stat().st_size != entry.bytes:
            problems.append(f"{name} has {path.stat().st_size} bytes, the manifest says {entry.bytes}")
        elif digest(path) != entry.sha256:
            problems.append(f"{name} has another sha256 than the manifest says")
    return problems
