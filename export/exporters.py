"""The exporters by name, and the choice between them. None is imported before it is asked for."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foldrank.bundle.bundle import FileEntry
from foldrank.errors import ExportError, NotWritable
from foldrank.model.checkpoint import Checkpoint

AUTO = "auto"
EXPORTERS = {
    "genai": "foldrank.export.genai:export",
    "transformers": "foldrank.export.standard:by_transformers",
    "optimum": "foldrank.export.standard:by_optimum",
}


@dataclass(frozen=True)
class Exported:
    """Who filled the folder, the entries of files that were digested, and why it was not the first choice."""

    exporter: str
    files: dict[str, FileEntry]
    reason: str | None = None


def check_exporter(name: str) -> None:
    """Raise ValueError where there is no such exporter."""
    if name not in (AUTO, *EXPORTERS):
        raise ValueError(f"no exporter {name!r}; one of {AUTO}, {', '.join(EXPORTERS)}")


Check = Callable[[str, Path], None]
"""Handed an exporter's name and the folder it filled; raises NotWritable where that is not the model."""


def unchecked(_exporter: str, _folder: Path) -> None:
    """Believe the exporter."""


def run_exporter(
    name: str, checkpoint: Checkpoint, folder: Path, *, check: Check = unchecked, **options: Any
) -> Exported:
    """Fill an empty folder. `options` are those of `genai.export`. "auto": what onnxruntime-genai's builder writes as
    it is, so that `check` passes, comes from there, for its fused operators; other models of transformers from
    transformers.exporters.

    Raises ValueError (no such exporter), ExportError.
    """
    check_exporter(name)

    def made(exporter: str) -> dict[str, FileEntry]:
        files = _named(exporter)(checkpoint, folder, **options)
        check(exporter, folder)
        return files

    if name != AUTO:
        return Exported(name, made(name))
    try:
        return Exported("genai", made("genai"))
    except NotWritable as error:
        if not _in_transformers(checkpoint.architecture):
            raise
        first = error
    _empty(folder)
    try:
        files = made("transformers")
    except ExportError as second:
        raise ExportError(second.where, f"{second.what}; the genai exporter before it: {first.what}",
                          second.remedy) from second
    return Exported("transformers", files, first.what)


def _named(name: str) -> Callable[..., dict[str, FileEntry]]:
    module, function = EXPORTERS[name].split(":")
    found: Callable[..., dict[str, FileEntry]] = getattr(importlib.import_module(module), function)
    return found


def _in_transformers(architecture: str) -> bool:
    """Whether transformers has that decoder itself."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as known

    return any(architecture == name or (isinstance(name, tuple) and architecture in name) for name in known.values())


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
