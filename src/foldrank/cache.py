"""Where foldrank keeps what it may make again: `$XDG_CACHE_HOME/foldrank`, or `~/.cache/foldrank`.

Nothing is kept where FOLDRANK_NO_CACHE is set.
"""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(kind: str) -> Path | None:
    """The folder for one kind of thing, which need not exist yet; None where nothing is to be kept."""
    if os.environ.get("FOLDRANK_NO_CACHE"):
        return None
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "foldrank" / kind
