"""A checkpoint's folder as the libraries can read it: same files, of what only they stumble over nothing left.

The libraries know no byte order mark, look for the weights under one name, and take the attention that config.json
names, though its package may be missing: foldrank chooses its own.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from foldrank.model.checkpoint import Checkpoint
from foldrank.model.weightfiles import INDEX, SINGLE

_CHOSEN_BY_US = ("_attn_implementation", "attn_implementation", "_attn_implementation_internal")
_BOM = b"\xef\xbb\xbf"


@contextlib.contextmanager
def readable(checkpoint: Checkpoint) -> Iterator[Path]:
    """The checkpoint's own folder, or for the time of the work one of links to its files with what must differ."""
    path = checkpoint.path
    clean = without_attention(checkpoint.config)
    if clean == checkpoint.config and not _marked(path) and not _renamed(checkpoint):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="foldrank.") as made:
        fill(Path(made), checkpoint, clean)
        yield Path(made)


def fill(folder: Path, checkpoint: Checkpoint, config: Any) -> None:
    """Make an empty folder the checkpoint with this config: links, weights under their common name, no marks."""
    marked = _marked(checkpoint.path)
    link_files(checkpoint.path, folder, without={"config.json", *(file.name for file in marked)},
               renamed=_renamed(checkpoint))
    _unmark(marked, folder)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def _renamed(checkpoint: Checkpoint) -> dict[str, str]:
    """The common name of the one weight file, where it has another."""
    if (checkpoint.path / INDEX).is_file() or (checkpoint.path / SINGLE).is_file():
        return {}
    return {file.name: SINGLE for file in checkpoint.weight_files}


@contextlib.contextmanager
def unmarked(path: Path) -> Iterator[Path]:
    """The folder itself, or for the time of the work one of links to its files, its JSON without byte order marks."""
    marked = _marked(path)
    if not marked:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="foldrank.") as made:
        link_files(path, Path(made), without={file.name for file in marked})
        _unmark(marked, Path(made))
        yield Path(made)


def link_files(
    source: Path, folder: Path, *, without: Collection[str] = ("config.json",), renamed: Mapping[str, str] | None = None
) -> None:
    """Links in `folder` to the plain files of `source`, but for those `without`; some under another name."""
    for file in source.iterdir():
        if file.is_file() and file.name not in without:
            (folder / (renamed or {}).get(file.name, file.name)).symlink_to(file.resolve())


def without_attention(config: Any) -> Any:
    """The config without the attention that it asks for, at any depth."""
    if isinstance(config, dict):
        return {key: without_attention(value) for key, value in config.items() if key not in _CHOSEN_BY_US}
    return [without_attention(value) for value in config] if isinstance(config, list) else config


def _marked(folder: Path) -> list[Path]:
    """JSON files of the folder that begin with a byte order mark."""
    return [path for path in sorted(folder.glob("*.json")) if _begins_with_mark(path)]


def _begins_with_mark(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_BOM)) == _BOM


def _unmark(files: Iterable[Path], folder: Path) -> None:
    for file in files:
        (folder / file.name).write_bytes(file.read_bytes().removeprefix(_BOM))
