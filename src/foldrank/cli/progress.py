"""Progress on stderr: rich bars on a terminal; elsewhere lines, one a minute while a stage lasts and one at its end."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from foldrank.cli import interrupts

LONG_S = 2.0
"""A stage that took longer is told of once it is done."""

EVERY_S = 60.0
"""How often a stage that lasts is told of."""

_LOOK_S = 1.0


class Bars:
    """`foldrank.progress.Progress` on a terminal. Use as a context, so that the cursor comes back."""

    def __init__(self) -> None:
        self._rich = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True), transient=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._rich.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._rich.stop()

    def start(self, stage: str, total: int | None, done: int = 0) -> None:
        """Show a bar, or a spinner where the total is unknown."""
        interrupts.check()
        self._tasks[stage] = self._rich.add_task(stage, total=total, completed=done)

    def advance(self, stage: str, steps: int = 1) -> None:
        """Move the bar."""
        interrupts.check()
        if stage in self._tasks:
            self._rich.advance(self._tasks[stage], steps)

    def finish(self, stage: str) -> None:
        """Take the bar away."""
        if stage in self._tasks:
            self._rich.remove_task(self._tasks.pop(stage))


@dataclass
class Stage:
    """An open stage: when it began, its steps, and when the last of them ended. `measured` is where its pace is taken
    from, a time and the steps done then: its start, until the first step, which warms things up, can be left out."""

    total: int | None
    done: int
    began_s: float
    last_s: float
    measured: tuple[float, int]
    stepped: bool = False

    def advance(self, steps: int, now_s: float) -> None:
        """So many more are done."""
        if self.stepped and self.measured[0] == self.began_s:
            self.measured = self.last_s, self.done
        self.done, self.last_s, self.stepped = self.done + steps, now_s, True

    def left_s(self, now_s: float) -> float | None:
        """Seconds that the rest will take at this pace; None where that cannot be told."""
        since_s, before = self.measured
        if self.total is None or not before < self.done < self.total:
            return None
        each_s = (self.last_s - since_s) / (self.done - before)
        return max(0.0, (self.total - self.done) * each_s - (now_s - self.last_s))

    def told(self, now_s: float) -> str:
        """How far it is, how long it took and what is left, e.g. `12 of 30 after 4.0 min, about 6.0 min left`."""
        if self.total is None and not self.done:
            return f"{_span(now_s - self.began_s)} so far"
        steps = f"{self.done} steps" if self.total is None else f"{self.done} of {self.total}"
        left_s = self.left_s(now_s)
        left = "" if left_s is None else f", about {_span(left_s)} left"
        return f"{steps} after {_span(now_s - self.began_s)}{left}"


class Lines:
    """`foldrank.progress.Progress` in a log: every minute how far the open stages are, the outermost first, and what
    took long once it is done. As a context it looks at the clock by itself, however long a step takes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` tells seconds."""
        self._clock = clock
        self._stages: dict[str, Stage] = {}
        self._told_s = clock()
        self._lock, self._over = threading.RLock(), threading.Event()
        self._watch: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._over.clear()
        self._watch = threading.Thread(target=self._look, name="foldrank progress", daemon=True)
        self._watch.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._over.set()
        if self._watch is not None:
            self._watch.join()
        self._stages.clear()

    def start(self, stage: str, total: int | None, done: int = 0) -> None:
        """Remember the time."""
        interrupts.check()
        now_s = self._clock()
        with self._lock:
            self._stages[stage] = Stage(total, done, now_s, now_s, (now_s, done))

    def advance(self, stage: str, steps: int = 1) -> None:
        """Count."""
        interrupts.check()
        with self._lock:
            if stage in self._stages:
                self._stages[stage].advance(steps, self._clock())

    def finish(self, stage: str) -> None:
        """Say how long it took, where that was long."""
        with self._lock:
            found = self._stages.pop(stage, None)
        if found is not None and (took_s := self._clock() - found.began_s) > LONG_S:
            self._say(f"{stage}: {took_s:.1f} s")

    def tell(self) -> None:
        """Say how far everything is, where a stage is open for a minute and nothing was said of it for as long."""
        now_s = self._clock()
        with self._lock:
            if not self._stages or now_s - max(self._told_s, min(s.began_s for s in self._stages.values())) < EVERY_S:
                return
            self._told_s = now_s
            line = "; ".join(f"{name}: {stage.told(now_s)}" for name, stage in self._stages.items())
        self._say(line)

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def _look(self) -> None:
        while not self._over.wait(_LOOK_S):
            self.tell()


class Nothing(Lines):
    """With -q: nothing at all."""

    def _say(self, line: str) -> None:
        """Say nothing."""


def shown(quiet: bool) -> Bars | Lines:
    """What fits this run: bars on a terminal, lines elsewhere, nothing with -q."""
    if quiet:
        return Nothing()
    return Bars() if sys.stderr.isatty() else Lines()


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 100 else f"{minutes / 60:.1f} h"
