"""Where on this machine checkpoints lie that were exported here, by their digests: in the user's cache, in no artefact.

Knows nothing of checkpoints but what a manifest's `source` says of them.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path

from foldrank.cache import cache_folder
from foldrank.disk.staging import write_atomically


def remember(source: Mapping[str, str], place: Path) -> None:
    """Note where the checkpoint lies. A cache that cannot be written is no error."""
    if (note := _note(source)) is not None:
        with contextlib.suppress(OSError):
            note.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(note, str(place.absolute()).encode())


def place_of(source: Mapping[str, str]) -> Path | None:
    """The folder noted last for these digests, if it still holds a config.json."""
    note = _note(source)
    try:
        place = Path(note.read_text(encoding="utf-8")) if note is not None else None
    except (OSError, UnicodeDecodeError):
        return None
    return place if place is not None and (place / "config.json").is_file() else None


def _note(source: Mapping[str, str]) -> Path | None:
    folder = cache_folder("checkpoints")
    digests = source.get("config_sha256"), source.get("weights_sha256")
    if folder is None or None in digests:
        return None
    return folder / hashlib.sha256(" ".join(map(str, digests)).encode()).hexdigest()
