"""`foldrank package`: a bundle in the layout of another tool, written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foldrank.bundle.bundle import Bundle, FileEntry, without_plan
from foldrank.disk.staging import check_file_output, check_output, staged_file, staged_folder, workspace
from foldrank.progress import SILENT, Progress
from foldrank.verbs.formats import Writer, format_of
from foldrank.verified import sha256_of


def package(
    bundle: Bundle | Path | str, output: Path | str, *, format: str, plan: bool = True, force: bool = False,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Write `output`, a folder or, for `zip` and `oci`, one file: the same graph and weights, named and described as
    `format` wants them. Without `plan` formats that hold the whole bundle hold it without its plan, whose numbers may
    take as much as the weights: that bundle runs and tests itself, `validate` refuses it.

    Gives `bundle`, `format`, `output` and `files`: sha256 and bytes by name, for one file by its own. What it wrote is
    no bundle: no verb takes it. Raises ValueError (no such format), SourceError, BundleError, ProviderUnavailable (a
    library that the format needs), and what the format refuses.
    """
    kind = format_of(format)
    if kind.file:
        check_file_output(output, force=force)
    else:
        check_output(output, force=force)
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    if kind.file and Path(output).expanduser().resolve().is_relative_to(opened.path.resolve()):
        check_file_output(output, outside=opened.path, force=force)
    write = _file if kind.file else _folder
    if plan or opened.plan is None or not kind.whole:
        entries = write(kind.writer(), opened, Path(output), force, progress)
    else:
        with workspace(output) as light:
            entries = write(kind.writer(), without_plan(opened, light), Path(output), force, progress)
    files = {name: {"sha256": entry.sha256, "bytes": entry.bytes} for name, entry in entries.items()}
    return {"bundle": str(opened.path), "format": format, "output": str(Path(output).expanduser().absolute()),
            "files": files}


def _folder(write: Writer, bundle: Bundle, output: Path, force: bool, progress: Progress) -> dict[str, FileEntry]:
    with staged_folder(output, force=force) as stage:
        known = write(bundle, stage, progress)
        paths = {path.relative_to(stage).as_posix(): path for path in sorted(stage.rglob("*")) if path.is_file()}
        return {name: known.get(name) or _entry(path) for name, path in paths.items()}


def _file(write: Writer, bundle: Bundle, output: Path, force: bool, progress: Progress) -> dict[str, FileEntry]:
    with staged_file(output, force=force) as path:
        known = write(bundle, path, progress)
        return {path.name: known.get(path.name) or _entry(path)}


def _entry(path: Path) -> FileEntry:
    return FileEntry(sha256_of(path), path.stat().st_size)
