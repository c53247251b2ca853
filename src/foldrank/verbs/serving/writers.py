"""Who writes: a few threads, each one text at a time, and a queue before them that holds so many and no more.

Knows texts as iterables of pieces. Knows nothing of HTTP, of models, of asyncio.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol


class Full(Exception):
    """The queue has no room for what was asked."""


class Closed(Exception):
    """Nothing is taken any more: the server is about to end."""


class Piece(Protocol):
    """A new token and the text that it made whole."""

    @property
    def token(self) -> int: ...
    @property
    def text(self) -> str: ...


@dataclass(eq=False)
class Job:
    """A text to be written. `begin` makes it, in the thread that writes it; `told` hears of each piece, of None when
    all is written, or of the exception that ended it. Nothing is told after `cancel`."""

    begin: Callable[[], Iterable[Piece]]
    told: Callable[[Piece | Exception | None], None]
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """End it before its next token, or before its first where it still waits."""
        self._cancelled.set()

    def write(self) -> None:
        """Write the text, in this thread."""
        if self._cancelled.is_set():
            return
        try:
            for piece in self.begin():
                if self._cancelled.is_set():
                    return
                self.told(piece)
                if self._cancelled.is_set():
                    return
        except Exception as error:  # noqa: BLE001 - whatever it is belongs to the request that caused it
            self.told(error)
            return
        self.told(None)


class Writers:
    """`threads` texts are written at once, `waiting` more may wait."""

    def __init__(self, threads: int, waiting: int) -> None:
        self.most = threads + waiting
        self._open, self._lock = True, threading.Lock()
        self._jobs: set[Job] = set()
        self._running = 0
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name=f"writer-{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    @property
    def running(self) -> int:
        """Texts that are being written."""
        return self._running

    @property
    def waiting(self) -> int:
        """Texts that wait."""
        return len(self._jobs) - self._running

    def submit(self, jobs: Sequence[Job]) -> None:
        """Take all of them or none. Raises Full, Closed."""
        with self._lock:
            if not self._open:
                raise Closed
            if len(self._jobs) + len(jobs) > self.most:
                raise Full
            self._jobs.update(jobs)
        for job in jobs:
            self._queue.put(job)

    def close(self, wait_s: float = 10.0) -> bool:
        """Cancel what is left and end the threads; whether they ended in time."""
        with self._lock:
            self._open = False
            left = list(self._jobs)
        for job in left:
            job.cancel()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(wait_s / len(self._threads))
        return not any(thread.is_alive() for thread in self._threads)

    def refuse(self) -> None:
        """Take nothing more; what was taken is written to its end."""
        with self._lock:
            self._open = False

    @property
    def open(self) -> bool:
        """Whether texts are taken."""
        return self._open

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            self._count(1)
            try:
                job.write()
            finally:
                self._count(-1, job)

    def _count(self, by: int, done: Job | None = None) -> None:
        with self._lock:
            self._running += by
            if done is not None:
                self._jobs.discard(done)


