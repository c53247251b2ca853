"""Kill a verb at each system call that changes the disk, and look at what is left: strace counts the calls and kills.

    python tests/support/every_call.py apply export plan report package sign     every call of each verb, minutes
    python tests/support/every_call.py apply --every 9                           each ninth of them

Libraries in C and Rust write too, which no patched `os` sees. A warm process is forked for each kill, stops itself
until strace holds it, and goes on. After each kill there must be at the output's place nothing, the old or the new,
whole; and after the next run of the verb the new and nothing beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from foldrank.disk import staging

CALLS = ("openat", "write", "pwrite64", "writev", "rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir",
         "rmdir", "ftruncate", "fallocate", "fsync", "fdatasync", "link", "linkat", "symlink", "chmod", "fchmod",
         "copy_file_range", "sendfile")
MOST = 5_000
"""Kills at one kind of call: more than any verb has."""


def killed_at(number: int, call: str, work: Callable[[], object], *, log: Path | None = None) -> bool:
    """Run `work` in a forked child that is killed as it enters its `number`-th call of that name. Whether it came so
    far. Raises RuntimeError where the work fails by itself."""
    child = os.fork()
    if child == 0:
        code = 8
        try:
            os.kill(os.getpid(), signal.SIGSTOP)
            work()
            code = 0
        except BaseException as error:  # noqa: BLE001 - told by the parent
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            os._exit(code)
    os.waitpid(child, os.WUNTRACED)
    tracer = subprocess.Popen(["strace", "-f", "-qqq", "-o", os.devnull if log is None else str(log), "-p", str(child),
                               "-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={number}"])
    while not _traced(child) and tracer.poll() is None:
        time.sleep(0.002)
    os.kill(child, signal.SIGCONT)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    tracer.wait()
    if code not in (0, -signal.SIGKILL):
        raise RuntimeError(f"the work ended with {code}")
    return code != 0


def _traced(process: int) -> bool:
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return status.split("TracerPid:")[1].split()[0] != "0"


def points(work: Callable[[], object], clean: Callable[[], object], *, every: int = 1) -> Iterator[tuple[str, int]]:
    """Each call and its number at which `work` was killed; what that left is looked at before the next. `clean` makes
    the place as it was."""
    for call in CALLS:
        for number in range(1, MOST, every):
            clean()
            if not killed_at(number, call, work):
                break
            yield call, number


def fingerprint(folder: Path) -> dict[str, bytes]:
    """What lies below, by name."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def attack(verb: str, run: Callable[[Path, bool], object], good: Callable[[Path], object], place: Path, *,
           force: bool, every: int) -> int:
    """Kill `run(output, force)` everywhere; `good` raises on an output that is not whole. Returns the kills."""
    output, kills = place / "out", 0
    staging._NEWBORN_S = -1.0  # no other run is about to take what it has just made

    def clean() -> None:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        if force:
            run(output, False)

    for call, number in points(lambda: run(output, force), clean, every=every):
        kills += 1
        if os.path.lexists(output):
            good(output)
        elif force:
            raise AssertionError(f"{verb} killed at {call} {number}: the old is gone")
        run(output, os.path.lexists(output))
        good(output)
        if left := sorted(path.name for path in place.iterdir() if path != output):
            raise AssertionError(f"{verb} killed at {call} {number}: after the next run there is {left}")
    return kills


@contextlib.contextmanager
def verbs() -> Iterator[dict[str, tuple[Callable[[Path, bool], object], Callable[[Path], object]]]]:
    """Each verb that writes, on a small model, with what tells that its output is whole."""
    from foldrank.bundle.bundle import Bundle
    from foldrank.planfile.plan import Plan
    from foldrank.verbs.apply import apply
    from foldrank.verbs.export import export
    from foldrank.verbs.package import package
    from foldrank.verbs.plan import plan
    from foldrank.verbs.report import report

    model = Path(__file__).parents[2] / "examples" / "specs-5m"
    with tempfile.TemporaryDirectory() as made:
        base = Path(made)
        dense, planned = base / "dense", base / "plan"
        export(model, dense)
        plan(model, planned, methods=["shortgpt:keep=0.9"], calibration_tokens=1024)
        small = base / "small"
        apply(dense, planned, small)

        def whole_plan(folder: Path) -> None:
            Plan.read(folder)

        yield {
            "export": (lambda out, force: export(model, out, force=force), Bundle.open),
            "plan": (lambda out, force: plan(model, out, methods=["shortgpt:keep=0.9"], calibration_tokens=1024,
                                             force=force), whole_plan),
            "apply": (lambda out, force: apply(dense, planned, out, force=force), Bundle.open),
            "package": (lambda out, force: package(small, out, format="transformers.js", force=force),
                        lambda folder: None if (folder / "config.json").is_file() else _fail(folder)),
            "report": (lambda out, force: report(out) if force else shutil.copytree(small, out), Bundle.open),
        }


def _fail(path: Path) -> None:
    raise AssertionError(f"{path} is not whole")


def main(arguments: Sequence[str] | None = None) -> None:
    """Attack the verbs asked for; a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verbs", nargs="+")
    parser.add_argument("--every", type=int, default=1)
    asked = parser.parse_args(arguments)
    with verbs() as known, tempfile.TemporaryDirectory() as made:
        for verb in asked.verbs:
            run, good = known[verb]
            for force in (True,) if verb == "report" else (False, True):
                began = time.monotonic()
                kills = attack(verb, run, good, Path(made) / verb, force=force, every=asked.every)
                print(f"{verb}{' --force' if force else ''}: {kills} kills, old or new each time, "
                      f"{time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
