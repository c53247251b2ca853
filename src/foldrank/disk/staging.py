"""Folders that appear whole or not at all: built beside their place, synced, renamed.

Knows nothing of what is written into them.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from foldrank.disk.renaming import exchange, rename_new, restore
from foldrank.errors import SourceError

_PARTIAL = ".partial"
_NEWBORN_S = 5.0
"""Age below which a draft without a lock may belong to a run that is about to take it."""


@contextlib.contextmanager
def staged_folder(target: Path | str, *, force: bool = False) -> Iterator[Path]:
    """Give an empty sibling of `target`; on success sync it and rename it into place, else remove it.

    Raises SourceError where the target exists (without `force`), its parent does not, or the disk is full.
    """
    target = Path(target).expanduser().absolute()
    check_output(target, force=force)
    with workspace(target) as stage:
        yield stage
        sync_tree(stage)
        move_into_place(stage, target, force=force)


@contextlib.contextmanager
def workspace(target: Path | str) -> Iterator[Path]:
    """Give an empty sibling of `target` for the work that leads to it, removed at the end whatever happens.

    Raises SourceError where it cannot be made or the disk fills up.
    """
    target = Path(target).expanduser().absolute()
    stage, lock = None, None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        stage = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=_PARTIAL, dir=target.parent))
        lock = locked(stage)
        stage.chmod(0o755)
        yield stage
    except OSError as error:
        raise _plain(target, error) from error
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def check_output(target: Path | str, *, force: bool = False) -> None:
    """Refuse early what `staged_folder` would refuse: an output that exists. Raises SourceError."""
    target = Path(target).expanduser().absolute()
    if os.path.lexists(target) and not force:
        raise SourceError(target, "exists already", "choose another -o, or --force to replace it")
    if os.path.lexists(target) and (target.is_symlink() or not target.is_dir()):
        raise SourceError(target, "is not a folder", "choose another -o")
    if target == Path.cwd() or target in Path.cwd().parents:
        raise SourceError(target, "holds the current folder", "choose another -o")


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file beside its place, sync it, rename it. What killed runs left beside that place goes first."""
    _remove_abandoned(path)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=_PARTIAL, delete=False) as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).chmod(0o644)
            os.replace(file.name, path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def check_file_output(path: Path | str, *, outside: Path | None = None, force: bool = False) -> None:
    """Refuse early what `write_output` would refuse, and a place in the bundle `outside`. Raises SourceError."""
    path = Path(path).expanduser().absolute()
    if outside is not None and path.resolve().is_relative_to(outside.resolve()):
        raise SourceError(path, "lies in the bundle, whose manifest names every file", "give a file outside of it")
    if os.path.lexists(path) and not force:
        raise SourceError(path, "exists already", "choose another -o, or --force to replace it")
    if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
        raise SourceError(path, "is not a plain file", "choose another -o")


def write_output(path: Path | str, data: bytes, *, force: bool = False) -> Path:
    """Write one file that a user named. Raises SourceError: `check_file_output`, or it cannot be written."""
    path = Path(path).expanduser().absolute()
    check_file_output(path, force=force)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    except OSError as error:
        raise _plain(path, error) from error
    return path


@contextlib.contextmanager
def staged_file(target: Path | str, *, force: bool = False) -> Iterator[Path]:
    """Give the path of a file to be written beside its place; on success sync it and rename it there, else remove it.

    Raises SourceError where the target exists (without `force`) or the disk is full.
    """
    target = Path(target).expanduser().absolute()
    check_file_output(target, force=force)
    with workspace(target) as stage:
        path = stage / target.name
        yield path
        path.chmod(0o644)
        sync_file(path)
        if force:
            check_file_output(target, force=True)
            os.replace(path, target)
        else:
            try:
                rename_new(path, target)
            except FileExistsError:
                what = "appeared while this ran"
                raise SourceError(target, what, "choose another -o, or --force to replace it") from None
        sync_file(target.parent)


def sync_tree(folder: Path) -> None:
    """fsync every file and folder below, and the folder itself."""
    for directory, _, names in os.walk(folder, topdown=False):
        for name in [*names, "."]:
            sync_file(os.path.join(directory, name))


def sync_file(path: Path | str) -> None:
    """fsync a file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move_into_place(stage: Path, target: Path, *, force: bool = False) -> None:
    """Rename a finished folder to its place, on the same file system. What appeared there is refused, or with `force`,
    where it is a folder, exchanged: `stage` holds it then. Raises SourceError, OSError."""
    try:
        rename_new(stage, target)
    except FileExistsError:
        if not force:
            what = "appeared while this ran"
            raise SourceError(target, what, "choose another -o, or --force to replace it") from None
        check_output(target, force=True)
        exchange(stage, target)
        if stage.is_symlink() or not stage.is_dir():  # it was swapped for a file since the check: give it back
            exchange(stage, target)
            raise SourceError(target, "is not a folder", "choose another -o") from None
    sync_standing(target.parent)


def sync_standing(folder: Path) -> None:
    """fsync a folder in which something new stands, whole and in sync. Where that fails it stands all the same: that is
    said, and is no error, which would claim that nothing was left."""
    try:
        sync_file(folder)
    except OSError as error:
        logging.getLogger("foldrank").warning(
            "%s: what was written stands, but may be gone after a power cut: %s", folder, error.strerror or error)


def locked(path: Path) -> int | None:
    """Descriptor that holds the lock of a folder or file until it is closed, or None where another process holds it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _sweep(target: Path) -> None:
    """Undo what runs towards the same target left that were killed: nobody locks it."""
    restore(target)
    _remove_abandoned(target)


def _remove_abandoned(target: Path) -> None:
    """Remove the drafts of a file or folder that nobody holds any more. Several runs may do so at once."""
    for draft in target.parent.glob(f".{glob.escape(target.name)}.*{_PARTIAL}"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - draft.lstat().st_mtime <= _NEWBORN_S or draft.is_symlink():
                continue
            if (lock := locked(draft)) is None:
                continue
            try:
                if draft.is_dir():
                    shutil.rmtree(draft, ignore_errors=True)
                else:
                    draft.unlink()
            finally:
                os.close(lock)


def _plain(target: Path, error: OSError) -> SourceError:
    what = f"cannot be written: {error.strerror or error}"
    return SourceError(error.filename or target, what, "nothing was left behind; make room or choose another -o")
