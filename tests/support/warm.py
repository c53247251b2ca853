"""Exporters without the ten seconds in which each child process imports torch and transformers: for tests of what they
write. A server that has imported them forks a child for every export.

What a child process itself is asked for (tests/unit/export/test_builder.py) runs in one of its own, and so does
whatever the command line is asked to export (tests/exports/test_whole_way.py).
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import tempfile
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from foldrank.export import child

EXPORTERS = ("onnxruntime_genai.models.builder", "foldrank.export.trace")
"""Modules that run warm, each as `python -m` would run it."""

_IN_A_PROCESS_OF_ITS_OWN = child._run
_SERVER: ForkServerContext = multiprocessing.get_context("forkserver")


def run(command: list[str], folder: Path, log: list[str], *told: Any) -> int:
    """`foldrank.export.child._run`; progress is told of no lines."""
    if command[:2] != [sys.executable, "-m"] or command[2] not in EXPORTERS:
        return _IN_A_PROCESS_OF_ITS_OWN(command, folder, log, *told)
    _SERVER.set_forkserver_preload(["torch", "transformers", "transformers.models.llama.modeling_llama", *EXPORTERS])
    with tempfile.NamedTemporaryFile("r", encoding="utf-8", errors="replace") as printed:
        forked = _SERVER.Process(target=_child, args=(command[2], command[3:], folder, printed.name,
                                                      {**os.environ, **child._QUIET}))
        forked.start()
        forked.join()
        log += printed.read().splitlines()
    return forked.exitcode or 0


def _child(module: str, arguments: list[str], folder: Path, printed: str, environment: dict[str, str]) -> None:
    """The forked process: `python -m MODULE ARGUMENTS` in that folder, what it prints in that file."""
    with open(printed, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
