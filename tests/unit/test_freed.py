"""Freed memory between held memory: the process lets it go."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from foldrank.freed import _trim, give_back


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux" or _trim() is None, reason="glibc alone has malloc_trim")
def test_what_is_freed_between_what_is_held_goes_back() -> None:
    held = [np.ones(12_000) for _ in range(2_000)]  # 96 KB each, below what is mapped by itself: 183 MiB
    pinned = held[::10]
    del held
    before = resident()
    give_back()
    assert before - resident() > 100 << 20
    assert sum(float(part[0]) for part in pinned) == 200
    give_back()
