"""Candidates in processes of this machine, so many at once. When this one is interrupted they end with it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

LOG = "log.txt"
_PROGRAM = "foldrank.verbs.sweeping.candidate"


def run(folders: Sequence[Path], jobs: int) -> Iterator[Path]:
    """Work on the folders' tasks, `jobs` at once; gives each folder when its process has ended."""
    children, lock, stopped = set[subprocess.Popen[bytes]](), threading.Lock(), threading.Event()
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    env = {"OMP_NUM_THREADS": threads, **os.environ} if jobs > 1 else dict(os.environ)

    def one(folder: Path) -> Path:
        with (folder / LOG).open("wb") as log:
            with lock:
                if stopped.is_set():
                    return folder
                child = subprocess.Popen([sys.executable, "-m", _PROGRAM, str(folder)], stdout=log, stderr=log, env=env,
                                         stdin=subprocess.DEVNULL)
                children.add(child)
            try:
                child.wait()
            finally:
                with lock:
                    children.discard(child)
        return folder

    pool = ThreadPoolExecutor(jobs)
    try:
        for done in as_completed([pool.submit(one, folder) for folder in folders]):
            yield done.result()
    finally:
        with lock:
            stopped.set()
            for child in children:
                child.terminate()
        pool.shutdown(wait=True, cancel_futures=True)
