"""What lies in a checkpoint's folder: files that can be opened, for the libraries open by name what we never look at.

A FIFO in the place of generation_config.json would keep transformers waiting for ever.
"""

from __future__ import annotations

import os
import stat
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from foldrank.errors import CheckpointRefused, SourceError
from foldrank.plainfile import kind_of

SMALL_FILES: Final = ("*.json", "*.jinja", "*.model", "*.txt")
"""Patterns of what a tokenizer and the configs are read from."""

_FILES: Final = (*SMALL_FILES, "*.safetensors")


def refuse_what_is_no_file(folder: Path) -> None:
    """Raise SourceError where a file is missing behind its link or a folder has a file's name, CheckpointRefused for a
    FIFO, a device or a socket, behind a link too."""
    for path in sorted(folder.iterdir()):
        wanted = any(fnmatchcase(path.name, pattern) for pattern in _FILES)
        try:
            status = os.stat(path)
        except OSError as error:
            if wanted:
                raise SourceError(path, f"cannot be read: {error.strerror}", "fetch the checkpoint again") from None
            continue
        if stat.S_ISDIR(status.st_mode):
            if wanted:
                raise SourceError(path, "is a folder", "fetch the checkpoint again")
        elif not stat.S_ISREG(status.st_mode):
            raise CheckpointRefused(path, f"is {kind_of(status)}, not a file", "take it out of the folder")
