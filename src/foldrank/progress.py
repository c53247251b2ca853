"""Progress as the work reports it; what shows it (the command line's bars, a log, nothing) is chosen by the caller."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Told when a stage of `total` steps begins (`done`: steps of an earlier run), after each step, and at its end."""

    def start(self, stage: str, total: int | None, done: int = 0) -> None: ...
    def advance(self, stage: str, steps: int = 1) -> None: ...
    def finish(self, stage: str) -> None: ...


class Silent:
    """Shows nothing."""

    def start(self, stage: str, total: int | None, done: int = 0) -> None:
        """Ignore."""

    def advance(self, stage: str, steps: int = 1) -> None:
        """Ignore."""

    def finish(self, stage: str) -> None:
        """Ignore."""


SILENT = Silent()


def track(items: Iterable[T], stage: str, total: int | None, progress: Progress) -> Iterator[T]:
    """Yield the items, telling progress after each."""
    progress.start(stage, total)
    try:
        for item in items:
            yield item
            progress.advance(stage)
    finally:
        progress.finish(stage)
