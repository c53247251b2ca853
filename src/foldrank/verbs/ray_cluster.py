"""A Ray cluster, joined for as long as something runs on it, and what its nodes must have."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from foldrank.errors import SourceError
from foldrank.versions import versions

TRIES = 3
"""How often work is begun again after its worker, or its node, died."""

REMEDY = "give folders that all nodes share, and install one foldrank"


@contextmanager
def joined(address: str, threads: int) -> Iterator[Any]:
    """The module `ray`, connected; workers compute with so many threads. Raises SourceError where none answers."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before it is imported
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR,
                 runtime_env={"env_vars": {"OMP_NUM_THREADS": str(threads)}})
    except (ConnectionError, ValueError, RuntimeError) as error:
        what = f"no Ray cluster answers: {' '.join(str(error).split())[:400]}"
        raise SourceError(address, what, "`ray status` tells what runs; give its HOST:PORT, or auto") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def differing(wanted: Mapping[str, str]) -> str | None:
    """Which of these versions this node has otherwise; None where all are the same."""
    node, here = platform.node(), versions()
    if other := sorted(name for name in {*wanted, *here} if wanted.get(name) != here.get(name)):
        return f"node {node} has {other[0]} {here.get(other[0])}, not {wanted.get(other[0])}"
    return None
