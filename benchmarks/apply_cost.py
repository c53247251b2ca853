"""What applying a plan costs beside copying its output: `python -m foldrank.benchmarks.apply_cost BUNDLE PLAN`.

Both are timed in one process, in turns, so that whatever else the machine does hits both; `apply` is the whole verb
(digests of the input proved, passes, weights written, digests of the output taken), and both end with their files
synced to disk. Peak memory is the VmHWM of a child that applies once. JSON on stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from foldrank.benchmarks.environment import environment
from foldrank.benchmarks.statistics import estimate
from foldrank.bundle.bundle import Bundle
from foldrank.disk.staging import sync_tree
from foldrank.planfile.plan import Plan
from foldrank.verbs.apply import apply

APPLY = """
from foldrank.verbs.apply import apply
import foldrank.passes.apply, foldrank.reporting.card
work = apply
"""
"""What a child imports; `work` takes its arguments."""
_PEAK = """
import sys
def peak():
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
before = peak()
work(*sys.argv[1:])
print(before, peak())
"""
ALLOWANCE = 512 << 20
"""Bytes over twice the largest tensor that apply may use."""


def measure(bundle: Path, plan: Path, work: Path, *, pairs: int = 7, seed: int = 0) -> dict[str, Any]:
    """Ratio of apply to copy over `pairs` interleaved pairs, and peak memory. `work` is an empty folder."""
    before, peak = peak_of(APPLY, bundle, plan, work / "peak")
    out = Bundle.open(work / "peak")
    size = sum(entry.bytes for entry in out.manifest.files.values())
    applied: list[float] = []
    copied: list[float] = []
    for i in range(pairs + 1):  # the first pair warms caches and is dropped
        turns: list[tuple[list[float], Callable[[], object]]] = [
            (applied, lambda: apply(bundle, plan, work / "apply")),
            (copied, lambda: copy_synced(out.path, work / "copy")),
        ]
        for samples, run in turns if i % 2 else reversed(turns):
            samples.append(seconds(run))
        for name in ("apply", "copy"):
            shutil.rmtree(work / name)
    ratios = [a / c for a, c in zip(applied[1:], copied[1:], strict=True)]
    found = estimate([ratios], seed)
    limit = ALLOWANCE + 2 * largest_tensor(bundle, out.path)
    return {
        "environment": environment(len(os.sched_getaffinity(0))),
        "output_bytes": size, "edits": len(Plan.read(plan).edits), "pairs": pairs, "seed": seed,
        "apply_seconds": applied[1:], "copy_seconds": copied[1:],
        "ratio": found.ratio, "ci95": found.ci95,
        "peak_bytes": peak, "peak_bytes_at_start": before, "peak_bytes_limit": limit,
        "peak_within_limit": peak <= limit,
    }


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def copy_synced(source: Path, target: Path) -> None:
    """Copy a folder and wait for the disk."""
    shutil.copytree(source, target)
    sync_tree(target)


def peak_of(program: str, *arguments: Path) -> tuple[int, int]:
    """(VmHWM after the program's imports, VmHWM after its `work` ran once) of a child, in bytes."""
    command = [sys.executable, "-c", program + _PEAK, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    before, peak = map(int, done.stdout.split())
    return before, peak


def largest_tensor(*folders: Path) -> int:
    """Bytes of the largest initializer of these bundles."""
    from foldrank.graph.safe.load import load_model

    graphs = [load_model(folder / "model.onnx").graph for folder in folders]
    return max(v.const_value.nbytes for g in graphs for v in g.initializers.values() if v.const_value is not None)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m foldrank.benchmarks.apply_cost", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="folder on the disk to measure (default: beside the bundle)")
    chosen = parser.parse_args()
    parent = chosen.work or chosen.bundle.absolute().parent
    with tempfile.TemporaryDirectory(prefix="apply-cost-", dir=parent) as work:
        found = measure(chosen.bundle, chosen.plan, Path(work), pairs=chosen.pairs, seed=chosen.seed)
    sys.stdout.write(json.dumps(found, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
