"""Progress as the work reports it; what shows it (the command line's bars, the log) is chosen by the caller."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")
_LOG = logging.getLogger("foldrank")


class Progress(Protocol):
    """Told when a stage of `total` steps begins (`done`: steps of an earlier run), after each step, and at its end."""

    def start(self, stage: str, total: int | None, done: int = 0) -> None: ...
    def advance(self, stage: str, steps: int = 1) -> None: ...
    def finish(self, stage: str) -> None: ...


class Silent:
    """Shows nothing; the log has when a stage began and ended, at level INFO."""

    def start(self, stage: str, total: int | None, done: int = 0) -> None:
        """Log it."""
        _LOG.info("%s begins", stage)

    def advance(self, stage: str, steps: int = 1) -> None:
        """Ignore."""

    def finish(self, stage: str) -> None:
        """Log it."""
        _LOG.info("%s ended", stage)


SILENT = Silent()


class Timed:
    """Passes on what it is told to another, and keeps how many seconds each stage took, of one name together."""

    def __init__(self, shown: Progress, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` tells seconds."""
        self._shown, self._clock, self._began_s = shown, clock, dict[str, float]()
        self.seconds: dict[str, float] = {}

    def start(self, stage: str, total: int | None, done: int = 0) -> None:
        """Remember when, pass on."""
        self._began_s[stage] = self._clock()
        self._shown.start(stage, total, done)

    def advance(self, stage: str, steps: int = 1) -> None:
        """Pass on."""
        self._shown.advance(stage, steps)

    def finish(self, stage: str) -> None:
        """Add what it took, pass on."""
        if (began_s := self._began_s.pop(stage, None)) is not None:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + self._clock() - began_s
        self._shown.finish(stage)


def track(items: Iterable[T], stage: str, total: int | None, progress: Progress) -> Iterator[T]:
    """Yield the items, telling progress after each."""
    progress.start(stage, total)
    try:
        for item in items:
            yield item
            progress.advance(stage)
    finally:
        progress.finish(stage)
