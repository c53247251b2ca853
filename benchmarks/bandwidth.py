"""Memory bandwidth as a program can really read it: one pass of integer sums over an array no cache can hold.

The read half of McCalpin's STREAM. Knows nothing of models.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

MIN_BYTES = 256 << 20
_PASSES = 5


def read_bandwidth(threads: int, *, cache_bytes: int = 0, passes: int = _PASSES) -> float:
    """Bytes per second, best of some passes, read by so many threads at once.

    The array has MIN_BYTES or four times the last-level cache, whichever is more. numpy's reduction of 64-bit integers
    runs without the interpreter lock and keeps up with memory, unlike its pairwise sum of floats.
    """
    array = np.ones(max(MIN_BYTES, 4 * cache_bytes) // 8, dtype=np.int64)
    parts = np.array_split(array, threads)
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(passes + 1):  # the first pass starts the threads
            start = time.perf_counter()
            total = sum(int(part) for part in pool.map(np.add.reduce, parts))
            best = min(best, time.perf_counter() - start)
            if total != array.size:
                raise AssertionError(f"read {total} of {array.size} numbers")
    return array.nbytes / best
