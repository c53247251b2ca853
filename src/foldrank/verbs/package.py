"""`foldrank package`: a bundle in the layout of another tool, written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from foldrank.bundle.bundle import Bundle, FileEntry
from foldrank.disk.staging import check_output, staged_folder
from foldrank.progress import SILENT, Progress
from foldrank.verbs.formats import writer
from foldrank.verified import sha256_of


def package(
    bundle: Bundle | Path | str, output: Path | str, *, format: str, force: bool = False, progress: Progress = SILENT
) -> dict[str, Any]:
    """Write the folder `output`: the same graph and weights, named and described as `format` wants them.

    Gives `bundle`, `format`, `output` and `files`: sha256 and bytes by name. It is no bundle any more: no verb takes
    it. Raises ValueError (no such format), SourceError, BundleError, and what the format refuses.
    """
    write = writer(format)
    check_output(output, force=force)
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    with staged_folder(output, force=force) as stage:
        known = write(opened, stage, progress)
        paths = {path.relative_to(stage).as_posix(): path for path in sorted(stage.rglob("*")) if path.is_file()}
        entries = {name: known.get(name) or FileEntry(sha256_of(path), path.stat().st_size)
                   for name, path in paths.items()}
    files = {name: {"sha256": entry.sha256, "bytes": entry.bytes} for name, entry in entries.items()}
    return {"bundle": str(opened.path), "format": format, "output": str(Path(output).expanduser().absolute()),
            "files": files}
