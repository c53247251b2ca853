"""Candidates as tasks of a Ray cluster: each in a process of its own on some node, and again where that process dies.

Files are not sent: the sweep's folder, checkpoint, texts and dense bundle lie where every node sees them under the same
path. What a task leaves there is what a process of this machine would: the same program does it, with the same versions
and as many threads.
"""

from __future__ import annotations

import contextlib
import os
import platform
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from foldrank.errors import SourceError
from foldrank.verbs.ray_cluster import REMEDY, TRIES, differing, joined
from foldrank.verbs.sweeping import candidate
from foldrank.verbs.sweeping.local import LOG
from foldrank.versions import versions


def run(folders: Sequence[Path], address: str) -> Iterator[Path]:
    """Work on the folders' tasks, as many at once as the cluster has room for; gives each folder when its task has
    ended. A task takes OMP_NUM_THREADS processors of a node, or one.

    Raises SourceError where no cluster answers, or where a node does not see the folders or has other versions.
    """
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    with joined(address, threads) as ray:
        yield from _run(ray, folders, threads)


def _run(ray: Any, folders: Sequence[Path], threads: int) -> Iterator[Path]:
    task = ray.remote(num_cpus=threads, max_calls=1, max_retries=TRIES)(_work)
    waiting = {task.remote(str(folder), os.getcwd(), versions()): folder for folder in folders}
    try:
        while waiting:
            [ended], _ = ray.wait(list(waiting), num_returns=1)
            folder = waiting.pop(ended)
            with contextlib.suppress(ray.exceptions.RayError):  # the candidate failed, and its folder says how
                if refused := ray.get(ended):
                    raise SourceError(folder, refused, REMEDY)
            yield folder
    finally:
        for left in waiting:
            ray.cancel(left, force=True)


def _work(folder: str, where: str, wanted: Mapping[str, str]) -> str | None:
    """What a worker does: the candidate's program, in this process, so that it ends with it. Gives why it refused."""
    node, place = platform.node(), Path(folder)
    if not (place / candidate.TASK).is_file() or not Path(where).is_dir():
        return f"node {node} does not see it, or {where}"
    if other := differing(wanted):
        return other
    os.chdir(where)
    with (place / LOG).open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    print(f"process {os.getpid()} on {node}", flush=True)
    try:
        candidate.main(place)
    except BaseException:
        traceback.print_exc()
        raise
    return None
