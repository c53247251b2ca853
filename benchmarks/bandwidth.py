"""Memory bandwidth as a program can really reach it, over arrays that no cache can hold. Knows nothing of models.

On a CPU one pass of integer sums, the read half of McCalpin's STREAM; on a device elementwise ONNX nodes, which read
and write.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from foldrank import small_graphs
from foldrank.runtime.providers.provider import Provider, load_onnxruntime
from foldrank.runtime.sessions.session import open_small

MIN_BYTES = 256 << 20
_PASSES = 5
DEVICE_BYTES = 1 << 30
"""Of the array on a device; no cache is near that large."""

_OPERATORS = ("Neg", "Abs", "Neg", "Abs")


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


def device_bandwidth(provider: Provider, *, size: int = DEVICE_BYTES, passes: int = _PASSES) -> float:
    """Bytes per second read and written together, best of some passes, on the device of a provider.

    A chain of elementwise nodes over `size` bytes of float32 through ONNX Runtime; start-up is in none of the passes.
    """
    ort, session = load_onnxruntime(), open_small(small_graphs.chain(_OPERATORS), provider)
    array = ort.OrtValue.ortvalue_from_numpy(np.ones(size // 4, np.float32), provider.device, provider.device_id)
    out = ort.OrtValue.ortvalue_from_shape_and_type((size // 4,), np.float32, provider.device, provider.device_id)
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", array)
    binding.bind_ortvalue_output("y", out)
    best = float("inf")
    for _ in range(passes + 1):
        start = time.perf_counter()
        session.run_with_iobinding(binding)
        best = min(best, time.perf_counter() - start)
    return 2 * size * len(_OPERATORS) / best
