"""A checkpoint's folder as the libraries can read it: same files, of what only they stumble over nothing left.

The libraries know no byte order mark, look for the weights under one name, and take the attention that config.json
names, though its package may be missing: foldrank chooses its own.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from foldrank.checkpoint import Checkpoint
from foldrank.weightfiles import INDEX, SINGLE

_CHOSEN_BY_US = ("_attn_implementation", "attn_implementation", "_attn_implementation_internal")
_BOM = b"\xef\xbb\xbf"


@contextlib.contextmanager
def readable(checkpoint: Checkpoint) -> Iterator[Path]:
    """The checkpoint's own folder, or for the time of the work one of links to its files with what must differ."""
    path = checkpoint.path
    clean = without_attention(checkpoint.config)
    marked = [file for file in sorted(path.glob("*.json")) if _marked(file)]
    if clean == checkpoint.config and not marked and not _renamed(checkpoint):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="foldrank.") as made:
        fill(Path(made), checkpoint, clean)
        yield Path(made)


def fill(folder: Path, checkpoint: Checkpoint, config: Any) -> None:
    """Make an empty folder the checkpoint with this config: links, weights under their common name, no marks."""
    marked = [file for file in sorted(checkpoint.path.glob("*.json")) if _marked(file)]
    link_files(checkpoint.path, folder, without={"config.json", *(file.name for file in marked)},
               renamed=_renamed(checkpoint))
    for file in marked:
        (folder / file.name).write_bytes(file.read_bytes().removeprefix(_BOM))
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def _renamed(checkpoint: Checkpoint) -> dict[str, str]:
    """The common name of the one weight file, where it has another."""
    if (checkpoint.path / INDEX).is_file() or (checkpoint.path / SINGLE).is_file():
        return {}
    return {file.name: SINGLE for file in checkpoint.weight_files}


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


def _marked(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_BOM)) == _BOM
