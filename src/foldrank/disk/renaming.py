"""Renames that destroy nothing: into a free place only, or two folders exchanged.

Where the system lacks renameat2 the plain rename of a folder keeps the first law: it fails on whatever is not an
empty folder. An exchange is then two renames; what a kill between them leaves is put back by `restore`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import os
import shutil
import tempfile
from pathlib import Path

_AT_FDCWD = -100
_NOREPLACE, _EXCHANGE = 1, 2
_LACKING = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}


def rename_new(stage: Path, target: Path) -> None:
    """Rename a folder, or a file, to a place where nothing is. Raises FileExistsError where something is, OSError
    otherwise."""
    try:
        if _renameat2(stage, target, _NOREPLACE):
            return
        if stage.is_dir():
            os.rename(stage, target)
        else:  # the plain rename of a file would destroy what stands there
            os.link(stage, target)
            stage.unlink()
    except OSError as error:
        if error.errno in _TAKEN:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        raise


def exchange(stage: Path, target: Path) -> None:
    """Swap two folders: afterwards `stage` holds what stood at `target`. Raises OSError."""
    if _renameat2(stage, target, _EXCHANGE):
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".old", dir=target.parent))
    descriptor = os.open(target, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # so that nobody takes it for a leftover between the renames
        os.rename(target, aside)
        try:
            os.rename(stage, target)
        except OSError:
            rename_new(aside, target)
            raise
        os.rename(aside, stage)
    finally:
        os.close(descriptor)


def restore(target: Path) -> None:
    """Put back what a kill during an exchange left aside, or remove it where the new stands. Raises OSError."""
    for aside in sorted(target.parent.glob(f".{glob.escape(target.name)}.*.old")):
        descriptor = os.open(aside, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.lexists(target) and any(aside.iterdir()):
                rename_new(aside, target)
            else:
                shutil.rmtree(aside, ignore_errors=True)
        except (BlockingIOError, FileExistsError):
            continue
        finally:
            os.close(descriptor)


def _renameat2(source: Path, target: Path, flag: int) -> bool:
    """Whether the system did it. Raises OSError for any reason but that it cannot."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flag) == 0:
        return True
    code = ctypes.get_errno()
    if code in _LACKING:
        return False
    raise OSError(code, os.strerror(code), str(target))
