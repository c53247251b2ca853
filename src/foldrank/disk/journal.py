"""Several small files of a folder replaced as one: a reader sees all of the old or all of the new.

They are written whole into `.writing`, renamed to `.next` (from then on they count), then moved to their places.
What a kill leaves of `.writing` never counted; what it leaves of `.next` is read there and moved by whoever comes next.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from foldrank.disk.staging import sync_file, sync_standing, sync_tree
from foldrank.errors import BundleError, SourceError

_WRITING, _NEXT = ".writing", ".next"
OWN = frozenset({_WRITING, _NEXT})
"""Names at the top of a folder that are this module's."""
_WAIT_S = 60.0


def current(folder: Path, name: str) -> Path:
    """Where a file of the folder stands now."""
    later = folder / _NEXT / name
    return later if pending(folder) and os.path.lexists(later) else folder / name


def pending(folder: Path) -> bool:
    """Whether files wait to be moved to their places."""
    return (folder / _NEXT).is_dir() and not (folder / _NEXT).is_symlink()


def files(folder: Path) -> dict[str, Path]:
    """Everything below that is no folder, by POSIX name, where it stands now."""
    found = {
        path.relative_to(folder).as_posix(): path for path in folder.rglob("*")
        if path.relative_to(folder).parts[0] not in OWN and (path.is_symlink() or not path.is_dir())
    }
    found |= {name: folder / name for name in OWN if (folder / name).is_symlink() or (folder / name).is_file()}
    later = _later(folder) if pending(folder) else []
    return found | {name: folder / _NEXT / name for name in later}


@contextlib.contextmanager
def locked(folder: Path, *, wait_s: float = _WAIT_S) -> Iterator[None]:
    """Hold the folder against other writers. Raises SourceError where another keeps it longer than `wait_s`."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    until = time.monotonic() + wait_s
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise SourceError(folder, "another run writes into it", "wait for its end") from None
                time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


def replace_files(folder: Path, data: Mapping[str, bytes]) -> None:
    """Write the files, all or none, under the lock. Raises OSError; then the folder is as it was. Once they count, a
    full disk keeps them from their places at most, and whoever comes next moves them there."""
    writing = folder / _WRITING
    finish(folder)
    try:
        for name, content in data.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (writing / name).parent.mkdir(parents=True, exist_ok=True)
            (writing / name).write_bytes(content)
        sync_tree(writing)
        os.rename(writing, folder / _NEXT)
    except OSError:
        shutil.rmtree(writing, ignore_errors=True)
        raise
    sync_standing(folder)
    with contextlib.suppress(OSError):
        finish(folder)


def finish(folder: Path) -> None:
    """Move what waits to its place and remove what never counted, under the lock. Raises OSError, BundleError."""
    if pending(folder):
        for name in _later(folder):
            place = folder / name
            if any((folder / part).is_symlink() for part in Path(name).parents):
                raise BundleError(place, "lies behind a link", "make the bundle again")
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(folder / _NEXT / name, place)
        sync_file(folder)
        shutil.rmtree(folder / _NEXT)
    if (folder / _WRITING).is_dir() and not (folder / _WRITING).is_symlink():
        shutil.rmtree(folder / _WRITING)


def _later(folder: Path) -> list[str]:
    """What waits; the manifest last, so that a reader who knows nothing of this refuses what is half moved."""
    later = folder / _NEXT
    names = [p.relative_to(later).as_posix() for p in later.rglob("*") if p.is_symlink() or not p.is_dir()]
    return sorted(names, key=lambda name: (name == "manifest.json", name))
