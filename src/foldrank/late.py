"""What is finished outlives a later step that fails: it is moved beside the output, and the error says where it lies.

Knows folders and errors. Knows nothing of what the folders hold.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from foldrank.errors import SourceError


@contextlib.contextmanager
def kept(folders: Mapping[str, Path], output: Path) -> Iterator[None]:
    """Where the work inside ends in an error or an interrupt, move each folder to OUTPUT.NAME (or .NAME-2, ...).

    The error gets a note that says so. An OSError becomes a SourceError.
    """
    try:
        yield
    except BaseException as error:
        places = [f"{name} bundle: {_keep(folder, output, name)}" for name, folder in folders.items()
                  if folder.is_dir()]
        note = f"what was finished is kept ({', '.join(places)}): go on with foldrank validate, bench, report"
        if isinstance(error, OSError):
            plain = SourceError(error.filename or output, f"cannot be written: {error.strerror or error}", "make room")
            plain.add_note(note)
            raise plain from error
        error.add_note(note)
        raise


def notes(error: BaseException | None) -> list[str]:
    """The notes of an error and of those that caused it."""
    found: list[str] = []
    while error is not None:
        found += getattr(error, "__notes__", [])
        error = error.__cause__ or error.__context__
    return list(dict.fromkeys(found))


def _keep(folder: Path, output: Path, name: str) -> Path:
    """Never over anything: a number follows where the name is taken."""
    number, place = 1, output.with_name(f"{output.name}.{name}")
    while os.path.lexists(place):
        number += 1
        place = output.with_name(f"{output.name}.{name}-{number}")
    os.rename(folder, place)
    return place
