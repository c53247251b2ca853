"""What a long run has finished so far, beside its output: after a late failure the same command goes on from there.

OUTPUT.unfinished holds what each stage made, and stages.json, which says from what: a key that digests all that the
result follows from. The folder goes when the output is there, and where nothing was finished. A lock keeps runs apart.
Knows folders, keys and errors. Knows nothing of what a stage makes.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from foldrank import strictjson
from foldrank.disk.staging import locked, write_atomically
from foldrank.errors import FoldrankError, SourceError

Made = TypeVar("Made")
STATE = "stages.json"


@dataclass(frozen=True)
class _Done:
    stage: str
    key: str
    after: list[str]


_DONE: TypeAdapter[list[_Done]] = TypeAdapter(list[_Done])


@dataclass
class Stages:
    """The stages that are done: for each its key, and the stages whose results it was made from."""

    folder: Path
    done: dict[str, dict[str, Any]] = field(default_factory=dict)

    def once(
        self, name: str, inputs: Any, make: Callable[[], object], opened: Callable[[], Made | None],
        *, after: Sequence[str] = (),
    ) -> Made:
        """What `opened` gives of a stage, made first unless it was made before from the same `inputs` (JSON). Where it
        opens no more, and where a stage in `after` was made again, it is made again too."""
        key = hashlib.sha256(strictjson.dumps([inputs, list(after)]).encode()).hexdigest()
        if self.done.get(name, {}).get("key") == key:
            with contextlib.suppress(FoldrankError):
                found = opened()
                if found is not None:
                    logging.getLogger("foldrank").warning("%s: %s is taken from the run before", self.folder, name)
                    return found
        self.forget(name)
        make()
        made = opened()
        if made is None:
            raise RuntimeError(f"stage {name} left nothing in {self.folder}")
        self._note({**self.done, name: {"key": key, "after": list(after)}})
        return made

    def forget(self, name: str) -> None:
        """Count a stage, and those made from it, as not done."""
        gone = {name}
        while more := {other for other, facts in self.done.items() if gone & set(facts["after"])} - gone:
            gone |= more
        if gone & set(self.done):
            self._note({other: facts for other, facts in self.done.items() if other not in gone})

    @contextlib.contextmanager
    def leaving(self, name: str) -> Iterator[None]:
        """While a stage's folder is moved to its place: killed then, it is not done, or an older output would be taken
        for it. Where the move fails it is as it was."""
        before = dict(self.done)
        self.forget(name)
        try:
            yield
        except BaseException:
            self._note(before)
            raise

    def _note(self, done: dict[str, dict[str, Any]]) -> None:
        listed = [{"stage": name, **facts} for name, facts in done.items()]
        write_atomically(self.folder / STATE, strictjson.dumps(listed).encode())
        self.done = done


@contextlib.contextmanager
def unfinished(output: Path) -> Iterator[Stages]:
    """The stages towards an output, from an earlier run where one left some; removed at the end, and kept, with a note
    on the error, where the work inside fails after a stage was done. An OSError becomes a SourceError."""
    try:
        stages, lock = _take(output)
    except OSError as error:
        what = f"cannot be written: {error.strerror or error}"
        raise SourceError(error.filename or output, what, "make room or choose another -o") from error
    try:
        yield stages
    except BaseException as error:
        note = _kept(stages) if stages.done else ""
        if not stages.done:
            shutil.rmtree(stages.folder, ignore_errors=True)
        if isinstance(error, OSError):
            what = f"cannot be written: {error.strerror or error}"
            plain = SourceError(error.filename or output, what, "make room or choose another -o")
            if note:
                plain.add_note(note)
            raise plain from error
        if note:
            error.add_note(note)
        raise
    else:
        shutil.rmtree(stages.folder, ignore_errors=True)
    finally:
        os.close(lock)


def notes(error: BaseException | None) -> list[str]:
    """The notes of an error and of those that caused it."""
    found: list[str] = []
    while error is not None:
        found += getattr(error, "__notes__", [])
        error = error.__cause__ or error.__context__
    return list(dict.fromkeys(found))


def _kept(stages: Stages) -> str:
    done = ", ".join(stages.done)
    return f"what was finished ({done}) is kept in {stages.folder}: the same command goes on from there"


def _take(output: Path) -> tuple[Stages, int]:
    """A folder of ours that no other run holds, and its lock: what an earlier run left, else a new one. What is not
    ours is left alone; a number follows where the name is taken. Raises OSError."""
    output.parent.mkdir(parents=True, exist_ok=True)
    number = 0
    while True:
        number += 1
        folder = output.with_name(f"{output.name}.unfinished" + (f"-{number}" if number > 1 else ""))
        try:
            folder.mkdir()
            write_atomically(folder / STATE, b"[]")
        except FileExistsError:
            if folder.is_symlink() or not (folder / STATE).is_file():
                continue
        lock = locked(folder)
        if lock is None:
            continue
        if not folder.is_dir() or os.fstat(lock).st_ino != folder.stat().st_ino:  # its run has just removed it
            os.close(lock)
            number -= 1
            continue
        return Stages(folder, _read(folder / STATE)), lock


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """What is noted; nothing where that cannot be read."""
    try:
        found = _DONE.validate_json(path.read_bytes(), strict=True)
    except (OSError, ValidationError):
        return {}
    return {facts.stage: {"key": facts.key, "after": facts.after} for facts in found}
