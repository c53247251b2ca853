"""The system calls by which a piece of work changes files below a place, and the work run again with one of them struck
down: strace logs them, kills at one, or says there that the disk is full.

Libraries in C and Rust write too, which no patched `os` sees. The work runs in a fork of this process, warm, which
stops itself until strace holds it. A process that it starts is followed. Knows nothing of foldrank.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

CALLS = ("openat", "write", "pwrite64", "writev", "rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir",
         "rmdir", "ftruncate", "fallocate", "fsync", "fdatasync", "link", "linkat", "symlink", "chmod", "fchmod",
         "copy_file_range", "sendfile", "ioctl")
"""`ioctl` is how a file is cloned."""
NEEDS_ROOM = frozenset({"openat", "write", "pwrite64", "writev", "rename", "renameat", "renameat2", "mkdir",
                        "ftruncate", "fallocate", "fsync", "fdatasync", "link", "linkat", "symlink",
                        "copy_file_range", "sendfile"})
"""What may find the disk full; removing does not."""
_OF_A_DESCRIPTOR = frozenset({"write", "pwrite64", "writev", "fsync", "fdatasync", "ftruncate", "fallocate", "fchmod"})
_STARTS = re.compile(r"^(\d+)\s+(\w+)\(")
_WRITES = re.compile(r"O_CREAT|O_TRUNC|O_WRONLY|O_RDWR")
KILLED = -signal.SIGKILL
_WAIT_S = 300.0


@dataclass(frozen=True)
class Call:
    """One call of a process or thread, by its name and how many of that name came before in that thread."""

    name: str
    number: int

    def __str__(self) -> str:
        return f"{self.name} {self.number}"


@dataclass(frozen=True)
class Ended:
    """How a run ended: its exit code, or minus the signal; and what it wrote to standard error."""

    code: int
    said: str


def calls_of(work: Callable[[], int], place: Path, log: Path) -> list[Call]:
    """Each call of the work that changes something below `place`, in order. `work` gives an exit code, 0 here. strace
    counts in each thread: one of another thread than the first counts where the first has fewer of that name, or what
    is struck would be some call of the first."""
    ended = _traced(work, ["-y", "-s", "400", "-o", str(log), "-e", f"trace={','.join(CALLS)}"])
    if ended.code != 0:
        raise RuntimeError(f"undisturbed, the work ended with {ended.code}: {ended.said}")
    return list(_below(log, place))


def killed_at(call: Call, work: Callable[[], int]) -> Ended:
    """The work, killed as it enters the call."""
    return _struck(call, "signal=SIGKILL", work)


def without_room_at(call: Call, work: Callable[[], int]) -> Ended:
    """The work, which is told at the call, and there alone, that no space is left."""
    return _struck(call, "error=ENOSPC", work)


def _struck(call: Call, how: str, work: Callable[[], int]) -> Ended:
    return _traced(work, ["-o", os.devnull, "-e", f"trace={call.name}", "-e",
                          f"inject={call.name}:{how}:when={call.number}"])


def _below(log: Path, place: Path) -> Iterator[Call]:
    found = list(_all_below(log, place))
    with log.open(encoding="utf-8", errors="replace") as lines:
        starts = [start.groups() for line in lines if (start := _STARTS.match(line))]
    first = starts[0][0]
    own = Counter(name for process, name in starts if process == first)
    return (call for process, call in found if process == first or call.number > own[call.name])


def _all_below(log: Path, place: Path) -> Iterator[tuple[str, Call]]:
    counted: Counter[tuple[str, str]] = Counter()
    with log.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if (found := _STARTS.match(line)) is None:
                continue
            process, name = found.groups()
            counted[process, name] += 1
            told = line.split(", ")[0] if name in _OF_A_DESCRIPTOR else line  # what is written may name the place too
            if str(place) in told and (name != "openat" or _WRITES.search(line)):
                yield process, Call(name, counted[process, name])


def _traced(work: Callable[[], int], options: list[str]) -> Ended:
    heard, told = os.pipe()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.setpgid(0, 0)  # what it starts ends with it where it hangs
            os.close(heard)
            os.dup2(told, 2)
            sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)  # whatever stood there, as in a run of pytest
            sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
            os.kill(os.getpid(), signal.SIGSTOP)
            code = work()
        finally:
            os._exit(code)
    os.close(told)
    os.waitpid(child, os.WUNTRACED)
    tracer = subprocess.Popen(["strace", "-f", "-qqq", "-p", str(child), *options])
    while not _held(child):
        if tracer.poll() is not None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise RuntimeError("strace may not trace here")
        time.sleep(0.002)
    os.kill(child, signal.SIGCONT)
    with open(heard, encoding="utf-8", errors="replace") as words, _at_most(child):
        said = words.read()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    tracer.wait()
    return Ended(code, said)


@contextlib.contextmanager
def _at_most(process: int) -> Iterator[None]:
    """A process that hangs is killed, and what it has started: it ends with SIGALRM's exit code, which no verb has."""
    def kill(*_: object) -> None:
        os.killpg(process, signal.SIGALRM)

    old = signal.signal(signal.SIGALRM, kill)
    signal.setitimer(signal.ITIMER_REAL, _WAIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def _held(process: int) -> bool:
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return status.split("TracerPid:")[1].split()[0] != "0"


def says_no_room(ended: Ended) -> bool:
    """One line with the system's own words, and nothing else that looks like an error."""
    lines = [line for line in ended.said.splitlines() if line.startswith("error: ")]
    return len(lines) == 1 and os.strerror(errno.ENOSPC) in lines[0] and "Traceback" not in ended.said
