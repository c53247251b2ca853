"""Progress on stderr: rich bars on a terminal, else one line for each stage that took longer than two seconds."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from foldrank.cli import interrupts

LONG_S = 2.0


class Bars:
    """`foldrank.progress.Progress` on a terminal. Use as a context, so that the cursor comes back."""

    def __init__(self) -> None:
        self._rich = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            console=Console(stderr=True), transient=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._rich.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._rich.stop()

    def start(self, stage: str, total: int | None) -> None:
        """Show a bar, or a spinner where the total is unknown."""
        interrupts.check()
        self._tasks[stage] = self._rich.add_task(stage, total=total)

    def advance(self, stage: str, steps: int = 1) -> None:
        """Move the bar."""
        interrupts.check()
        if stage in self._tasks:
            self._rich.advance(self._tasks[stage], steps)

    def finish(self, stage: str) -> None:
        """Take the bar away."""
        if stage in self._tasks:
            self._rich.remove_task(self._tasks.pop(stage))


class Lines:
    """`foldrank.progress.Progress` in a log: what took long, once it is done."""

    def __init__(self) -> None:
        self._started: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._started.clear()

    def start(self, stage: str, total: int | None) -> None:
        """Remember the time."""
        interrupts.check()
        self._started[stage] = time.monotonic()

    def advance(self, stage: str, steps: int = 1) -> None:
        """Nothing to show."""
        interrupts.check()

    def finish(self, stage: str) -> None:
        """Say how long it took, where that was long."""
        took_s = time.monotonic() - self._started.pop(stage, time.monotonic())
        if took_s > LONG_S:
            print(f"{stage}: {took_s:.1f} s", file=sys.stderr)


class Nothing(Lines):
    """With -q: nothing at all."""

    def finish(self, stage: str) -> None:
        """Say nothing."""


def shown(quiet: bool) -> Bars | Lines:
    """What fits this run: bars on a terminal, lines elsewhere, nothing with -q."""
    if quiet:
        return Nothing()
    return Bars() if sys.stderr.isatty() else Lines()
