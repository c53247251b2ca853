"""Every verb that writes, killed and left without room at each system call that changes the disk.

    python tests/support/every_verb.py kill apply export plan       each call of each of these verbs, minutes
    python tests/support/every_verb.py full all --every 25          no room, at each 25th of the calls of all verbs
    python tests/support/every_verb.py twice all                    two runs on one output at once

After a kill there is at the output's place nothing, the old or the new, whole. Without room the verb says so in one
line with exit code 3 and the place is as it was; or it did not need that call, and ends well. In both cases the next
run makes the new, whole, and leaves nothing beside it. The model is tiny and random.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import runpy
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import every_call
import tqdm
from every_call import KILLED, NEEDS_ROOM, Call, Ended

from foldrank.cli import main as command_line
from foldrank.disk import staging

MODES = ("kill", "full", "twice")


@dataclass(frozen=True)
class Verb:
    """Its words on the command line for a place whose output is `out`, and what raises where that is not whole.
    `inside`: the output is a bundle that is there before, and gets reports; `beside`: what else it leaves there."""

    words: Callable[[Path], list[str]]
    good: Callable[[Path], object]
    inside: Path | None = None
    beside: tuple[str, ...] = ()
    forced: bool = True
    """Whether it has --force; without, it replaces what is there."""


class Broken(AssertionError):
    """What must hold does not."""


def attack(mode: str, name: str, verb: Verb, place: Path, *, force: bool, every: int, first: int = 0) -> int:
    """Strike the verb at each `every`-th of its calls, from the `first` on; how many that was. Raises Broken."""
    room = _Room(name, verb, place, force)
    with _newborns_are_none():
        room.again()
        calls = every_call.calls_of(lambda: room.run(force), place, place.parent / "log")
        if mode == "full":
            calls = [call for call in calls if call.name in NEEDS_ROOM]
        for call in calls[first::every]:
            room.again()
            room.strike(mode, call)
    return len(calls[first::every])


@dataclass
class _Room:
    name: str
    verb: Verb
    place: Path
    force: bool

    @property
    def out(self) -> Path:
        return self.place / "out"

    def run(self, force: bool) -> int:
        """The verb's exit code, here."""
        words = [*self.verb.words(self.place), *(["--force"] if force and self.verb.forced else [])]
        return command_line._run(words)

    def again(self) -> None:
        """The place as it was: empty, with an old output, or with a bundle."""
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir(parents=True)
        if self.verb.inside is not None:
            shutil.copytree(self.verb.inside, self.out)
        elif self.force and (code := self.run(False)) != 0:
            raise RuntimeError(f"{self.name} ended with {code}")

    def strike(self, mode: str, call: Call) -> None:
        """One call struck, what is left looked at, and the next run."""
        before = fingerprint(self.place)
        struck = every_call.killed_at if mode == "kill" else every_call.without_room_at
        ended = struck(call, lambda: self.run(self.force))
        where = f"{self.name}{' --force' if self.force else ''}, {mode} at {call}"
        if os.path.lexists(self.out):
            self.verb.good(self.out)
        elif self.force or self.verb.inside is not None:
            raise Broken(f"{where}: the old is gone")
        if mode == "full":
            self._judge(ended, before, where)
        elif ended.code not in (0, 3, KILLED):
            raise Broken(f"{where}: ended with {ended.code}: {ended.said}")
        if (code := self.run(os.path.lexists(self.out))) != 0:
            raise Broken(f"{where}: the next run ended with {code}")
        self.verb.good(self.out)
        if left := {path.name for path in self.place.iterdir()} - {"out", *self.verb.beside}:
            raise Broken(f"{where}: after the next run there is {sorted(left)}")

    def _judge(self, ended: Ended, before: dict[str, bytes], where: str) -> None:
        if ended.code == 0:
            self.verb.good(self.out)
        elif ended.code == 4 and f"Errno {errno.ENOSPC}" in ended.said and str(self.place) not in ended.said:
            return  # a file was opened to be read: caches make some more calls of one run than of another
        elif ended.code != 3 or not every_call.says_no_room(ended):
            raise Broken(f"{where}: ended with {ended.code}: {ended.said}")
        elif self.verb.inside is None:
            odd = {name for name, _ in before.items() ^ fingerprint(self.place).items()} - {*self.verb.beside}
            if odd:  # a recipe is saved before the work, which may fail, begins
                raise Broken(f"{where}: it failed and changed {sorted(odd)}")


def twice(name: str, verb: Verb, place: Path, *, force: bool, lag_s: float) -> list[int]:
    """Two runs on one output, the second so much later; their exit codes. Raises Broken unless one ends well, the
    other too or with 3, the output is whole, and nothing lies beside it after one more run: `compress` keeps what it
    had finished."""
    room = _Room(name, verb, place, force)
    room.again()
    running = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            code = 99
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                code = room.run(force)
            finally:
                os._exit(code)
        running.append(child)
        time.sleep(lag_s)
    codes = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in running)
    verb.good(room.out)
    if 3 in codes and (code := room.run(True)) != 0:
        raise Broken(f"{name} twice, {lag_s} s apart: the next run ended with {code}")
    left = {path.name for path in place.iterdir()} - {"out", *verb.beside}
    if codes not in ([0, 0], [0, 3]) or left:
        raise Broken(f"{name} twice, {lag_s} s apart: ended with {codes}, beside the output {sorted(left)}")
    verb.good(room.out)
    return codes


def fingerprint(folder: Path) -> dict[str, bytes]:
    """What lies below, by name."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else b"" for p in folder.rglob("*")}


@contextlib.contextmanager
def _newborns_are_none() -> Iterator[None]:
    """No other run is about to take what it has just made."""
    before = staging._NEWBORN_S
    staging._NEWBORN_S = -1.0
    try:
        yield
    finally:
        staging._NEWBORN_S = before


def exported_here(command: list[str], folder: Path, log: list[str], *_: Any) -> int:
    """`foldrank.export.child._run` in a fork: strace follows it, and it has imported torch. tqdm's own lock is one for
    all forks, which one that is killed while it holds it would take with it."""
    tqdm.tqdm.set_lock(threading.RLock())
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for stream in (1, 2):
                os.dup2(os.open(folder / "printed", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
            os.chdir(folder)
            sys.argv = [command[2], *command[3:]]
            runpy.run_module(command[2], run_name="__main__", alter_sys=True)
            code = 0
        except BaseException as error:  # noqa: BLE001 - as the interpreter would end
            os.write(1, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    printed = folder / "printed"
    if printed.exists():
        log += printed.read_text(errors="replace").splitlines()
        printed.unlink()
    return code


def main(arguments: Sequence[str] | None = None) -> None:
    """Attack the verbs asked for; a line for each."""
    from every_verb_known import verbs

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("verbs", nargs="+", help="by name, or all")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    asked = parser.parse_args(arguments)
    failed = False
    with verbs() as known, tempfile.TemporaryDirectory() as made:
        for name in known if asked.verbs == ["all"] else asked.verbs:
            verb = known[name]
            for force in (True,) if verb.inside is not None or not verb.forced else (False, True):
                began, place = time.monotonic(), Path(made) / name / "place"
                try:
                    if asked.mode == "twice":
                        done: object = [twice(name, verb, place, force=force, lag_s=lag) for lag in (0.0, 0.05, 0.5)]
                    else:
                        done = attack(asked.mode, name, verb, place, force=force, every=asked.every, first=asked.first)
                except Broken as broken:
                    failed, done = True, f"BROKEN {broken}"
                print(f"{asked.mode} {name}{' --force' if force else ''}: {done}, {time.monotonic() - began:.0f} s",
                      flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
