"""Git LFS pointers: the three lines that lie in the place of a file where `git lfs pull` was not run.

Knows bytes. Called wherever a stranger's file is opened.
"""

from __future__ import annotations

import os
from pathlib import Path

from foldrank.errors import SourceError
from foldrank.plainfile import open_plain

_FIRST_LINES = (b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/")
_MOST_BYTES = 1024
"""A pointer is shorter, says the specification of Git LFS."""


def refuse_pointer(path: Path, *, follow: bool = True) -> None:
    """Raise SourceError where the plain file is a pointer; what is none is for others to judge.

    `follow`: through a link too, as the hub's cache has them.
    """
    try:
        with open_plain(path, follow=follow) as file:
            short = os.fstat(file.fileno()).st_size <= _MOST_BYTES
            start = file.read(max(map(len, _FIRST_LINES))) if short else b""
    except OSError:
        return
    if start.startswith(_FIRST_LINES):
        raise SourceError(path, "is a Git LFS pointer, not the file itself", "`git lfs pull` in its repository")
