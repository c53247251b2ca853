"""sha256 of large files, hashed once for each state of the file rather than by every command that opens a bundle.

As git trusts its index: a file whose device, inode, size, mtime and ctime are those of a file already hashed has that
file's digest. ctime cannot be set by a program, so a changed byte always shows. A digest taken while the file was
younger than the file system's clock can tell apart is not remembered. Set FOLDRANK_NO_CACHE to hash always.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from pathlib import Path

from foldrank.cache import cache_folder
from foldrank.digests import sha256_file

MIN_BYTES = 1 << 20
"""Smaller files are hashed each time: that costs less than the look-up is worth."""

SETTLED_NS = 100_000_000
"""Age of a file's last change at which two changes can no longer bear one time stamp (a kernel tick is 1 to 10 ms)."""

FORGET_S = 90 * 24 * 3600


def sha256_of(path: Path) -> str:
    """Hex sha256 of the file's bytes, remembered. Raises OSError."""
    if path.stat().st_size < MIN_BYTES:
        return sha256_file(path)
    known = _place(path)
    with contextlib.suppress(OSError):
        digest = known.read_text(encoding="ascii") if known else ""
        if len(digest) == 64:
            return digest
    before = os.stat(path)
    digest = sha256_file(path)
    remember(path, digest, before)
    return digest


def remember(path: Path, digest: str, seen: os.stat_result) -> None:
    """Keep the digest of a file that was in state `seen` when hashing began, if it still is and has settled."""
    place = _place(path)
    if place is None or _state(os.stat(path)) != _state(seen) or time.time_ns() - seen.st_ctime_ns < SETTLED_NS:
        return
    with contextlib.suppress(OSError):  # a cache that cannot be written is no cache
        place.parent.mkdir(parents=True, exist_ok=True)
        _forget_old(place.parent)
        draft = place.with_suffix(f".{os.getpid()}")
        draft.write_text(digest, encoding="ascii")
        draft.replace(place)


def _place(path: Path) -> Path | None:
    """Where the digest of the file in its present state would be kept."""
    folder = cache_folder("sha256")
    return folder and folder / hashlib.sha256(repr(_state(os.stat(path))).encode()).hexdigest()


def _state(seen: os.stat_result) -> tuple[int, ...]:
    return seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns


def _forget_old(folder: Path) -> None:
    limit = time.time() - FORGET_S
    for entry in folder.iterdir():
        if entry.stat().st_mtime < limit:
            entry.unlink(missing_ok=True)
