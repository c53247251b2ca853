"""Where on this machine checkpoints lie that were exported here, and the GGUF files that they were read from, by their
digests: in the user's cache, in no artefact.

Knows nothing of checkpoints but what a manifest's `source` says of them.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path

from foldrank.cache import cache_folder
from foldrank.disk.staging import write_atomically
from foldrank.verified import sha256_of


def remember(source: Mapping[str, str], place: Path) -> None:
    """Note where the checkpoint lies. A cache that cannot be written is no error."""
    _write(_note(source), place)


def remember_gguf(source: Mapping[str, str], file: Path) -> None:
    """Note where the GGUF file lies that the checkpoint was read from. A cache that cannot be written is no error."""
    _write(_gguf_note(source), file)


def place_of(source: Mapping[str, str]) -> Path | None:
    """The folder noted last for these digests, if it still holds a config.json."""
    place = _read(_note(source))
    return place if place is not None and (place / "config.json").is_file() else None


def gguf_place(source: Mapping[str, str]) -> Path | None:
    """The GGUF file that a checkpoint was read from, where noted last, if it still has the digest."""
    place = _read(_gguf_note(source))
    return place if place is not None and place.is_file() and sha256_of(place) == source["gguf_sha256"] else None


def _write(note: Path | None, place: Path) -> None:
    if note is not None:
        with contextlib.suppress(OSError):
            note.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(note, str(place.absolute()).encode())


def _read(note: Path | None) -> Path | None:
    try:
        return Path(note.read_text(encoding="utf-8")) if note is not None else None
    except (OSError, UnicodeDecodeError):
        return None


def _note(source: Mapping[str, str]) -> Path | None:
    return _named(source.get("config_sha256"), source.get("weights_sha256"))


def _gguf_note(source: Mapping[str, str]) -> Path | None:
    return _named("gguf", source.get("gguf_sha256"))


def _named(*digests: str | None) -> Path | None:
    folder = cache_folder("checkpoints")
    if folder is None or None in digests:
        return None
    return folder / hashlib.sha256(" ".join(map(str, digests)).encode()).hexdigest()
