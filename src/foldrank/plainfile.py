"""The one opener of a stranger's files: plain files alone, without waiting for anybody.

A FIFO has no end until its writer comes, a device none at all; a link leads where its maker wants. Knows bytes.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Final

_KINDS: Final = (
    (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"), (stat.S_ISLNK, "a link"),
)


class NotPlain(OSError):
    """What lies there is no plain file; `strerror` says what it is."""


def open_plain(path: Path | str, *, follow: bool = True) -> BufferedReader:
    """The file, opened to be read. `follow`: through a link too, as the hub's cache has them.

    Raises OSError, of which NotPlain is what is no file or, without `follow`, a link.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    except ValueError as error:  # a NUL in the name
        raise NotPlain(errno.EINVAL, f"cannot be a file's name: {error}", str(path)) from None
    except OSError as error:
        if error.errno == errno.ELOOP and not follow:
            raise NotPlain(errno.ELOOP, "is a link", str(path)) from None
        if error.errno == errno.ENXIO:  # what opening a socket gives
            raise NotPlain(errno.ENXIO, "is a socket", str(path)) from None
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise NotPlain(errno.EINVAL, f"is {kind_of(status)}", str(path))
    return os.fdopen(descriptor, "rb")


def why_not(error: OSError) -> str:
    """What keeps a file from being opened, in words."""
    return f"is not a plain file: it {error.strerror}" if isinstance(error, NotPlain) else (
        f"cannot be read: {error.strerror}")


def kind_of(status: os.stat_result) -> str:
    """What a file that is not plain is, in words."""
    return next((words for test, words in _KINDS if test(status.st_mode)), "no plain file")
