"""A file that is hashed and sent to disk while it is written.

Beside the writer one thread hashes what was written, as it lies in the page cache, and another sends it to disk, so
that neither has to wait for the other. The digest is thus one of what the file holds, whatever way it came.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import queue
import threading
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from foldrank.bundle.bundle import FileEntry

_PIECE = 1 << 20
"""Bytes of one copy, between which the hash is told how far it may read."""
_AHEAD = 64
"""Pieces that writing may be ahead of hashing: what is mapped should still be in memory."""
_WINDOW = 4 << 20
"""Bytes mapped at once to be hashed; a multiple of every page size."""
_FLUSH_BYTES = 16 << 20
"""Sent to disk at once while more is written: waiting with all of it to the end would leave disk or processor idle."""


class HashedFile:
    """A new file and its sha256. A context manager; its threads end with it."""

    def __init__(self, path: Path) -> None:
        self.path, self.position = path, 0
        self._file = path.open("x+b", buffering=0)
        self._hash = hashlib.sha256()
        self._written: queue.Queue[int] = queue.Queue(_AHEAD)
        self._flushes: queue.Queue[bool] = queue.Queue()
        self._failed: OSError | None = None
        self._threads = [threading.Thread(target=run, name=run.__name__) for run in (self._digest, self._flush)]

    def __enter__(self) -> HashedFile:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        self._file.close()

    def write(self, data: memoryview) -> None:
        """Append bytes. Raises OSError."""
        while data:
            count = self._file.write(data[:_PIECE])
            self._advance(count)
            data = data[count:]

    def copy(self, source: BinaryIO, start: int, size: int, name: str) -> None:
        """Append `size` bytes of an open file from `start` on. Raises OSError, naming it where it ends before."""
        buffer, end = memoryview(bytearray(min(_PIECE, size))), start + size
        while start < end:
            count = os.preadv(source.fileno(), [buffer[: end - start]], start)
            if not count:
                raise OSError(errno.EIO, "ends before its tensors do", name)
            self.write(buffer[:count])
            start += count

    def pad(self, alignment: int) -> None:
        """Append zeros up to a multiple of the alignment."""
        if missing := -self.position % alignment:
            self.write(memoryview(bytes(missing)))

    def entry(self) -> FileEntry:
        """Digest and size; waits for the digest, after which nothing more can be written. Raises OSError."""
        self._end()
        if self._failed is not None:
            raise self._failed
        return FileEntry(self._hash.hexdigest(), self.position)

    def _advance(self, count: int) -> None:
        before, self.position = self.position, self.position + count
        self._written.put(self.position)
        if self.position // _FLUSH_BYTES > before // _FLUSH_BYTES:
            self._flushes.put(True)

    def _end(self) -> None:
        if any(thread.is_alive() for thread in self._threads):
            self._written.put(-1)
            self._flushes.put(False)
        for thread in self._threads:
            thread.join()

    def _digest(self) -> None:
        """Whole windows while more is written, the rest at the end."""
        done = 0
        while (end := self._written.get()) >= 0:
            done = self._hash_up_to(end - end % _WINDOW, done)
        self._hash_up_to(self.position, done)

    def _hash_up_to(self, end: int, start: int) -> int:
        """Hash what is mapped: reading it into memory of one's own would cost a copy more."""
        while start < end and self._failed is None:
            size = min(_WINDOW, end - start)
            try:
                with mmap.mmap(self._file.fileno(), size, access=mmap.ACCESS_READ, offset=start) as window:
                    self._hash.update(window)
            except OSError as error:
                self._failed = error
            except ValueError:  # the file is shorter than what was written
                self._failed = OSError(errno.EIO, "was cut while it was written", str(self.path))
            start += size
        return max(start, end)

    def _flush(self) -> None:
        """The kernel tells of a failed write only once, so it is kept."""
        while self._flushes.get():
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                self._failed = self._failed or error
