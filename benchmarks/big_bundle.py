"""Applying a structural fold to a bundle that may be larger than memory: `python -m foldrank.benchmarks.big_bundle`.

A bundle of random weights is made on the spot and deleted at the end. Three things are timed in turns in one process,
all ending with the same bytes synced to disk: `apply` of a plan that folds a quarter of the blocks; copying apply's
output; and onnx-ir's own load, rewrite (unused nodes removed) and save of that output, which proves
nothing and takes no digest. Peak memory is the VmHWM of a child that does each once. JSON on stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from foldrank.benchmarks.apply_cost import ALLOWANCE, APPLY, copy_synced, largest_tensor, peak_of, seconds
from foldrank.benchmarks.environment import environment
from foldrank.benchmarks.random_bundle import write_random
from foldrank.benchmarks.random_checkpoint import parse_size
from foldrank.benchmarks.statistics import estimate
from foldrank.bundle.bundle import Bundle
from foldrank.disk.staging import sync_tree
from foldrank.passes.write import DATA, MODEL
from foldrank.verbs.apply import apply

_REWRITE = """
from pathlib import Path
from foldrank.benchmarks.big_bundle import rewrite_synced
def work(source, target):
    rewrite_synced(Path(source), Path(target))
"""
_DISK = 3
"""Times the bundle that must be free: the bundle, apply's output, and the one being written."""


def measure(size: int, work: Path, *, pairs: int = 3, seed: int = 0) -> dict[str, Any]:
    """Times, ratios to the copy and peaks for a bundle of about `size` bytes, in the empty folder `work`.

    Raises OSError where the disk has too little room.
    """
    if (free := shutil.disk_usage(work).free) < _DISK * size:
        raise OSError(28, f"{free >> 30} GiB free, {_DISK * size >> 30} GiB needed", str(work))
    dense, plan = write_random(size, work / "dense", seed=seed)
    (work / "plan").mkdir()
    plan.write(work / "plan")
    start, peak = peak_of(APPLY, dense.path, work / "plan", work / "small")
    small = Bundle.open(work / "small")
    rewrite_start, rewrite_peak = peak_of(_REWRITE, small.path, work / "out")
    shutil.rmtree(work / "out")
    turns: dict[str, Callable[[], object]] = {
        "apply": lambda: apply(dense, plan, work / "out"),
        "copy": lambda: copy_synced(small.path, work / "out"),
        "rewrite": lambda: rewrite_synced(small.path, work / "out"),
    }
    times: dict[str, list[float]] = {name: [] for name in turns}
    for i in range(pairs):
        for name in list(turns) if i % 2 else reversed(turns):
            times[name].append(seconds(turns[name]))
            shutil.rmtree(work / "out")
    ratios = {name: estimate([[t / c for t, c in zip(times[name], times["copy"], strict=True)]], seed)
              for name in ("apply", "rewrite")}
    largest = largest_tensor(dense.path, small.path)
    limit = ALLOWANCE + 2 * largest
    return {
        "environment": environment(len(os.sched_getaffinity(0))), "pairs": pairs, "seed": seed,
        "bundle_bytes": _bytes(dense), "output_bytes": _bytes(small), "largest_tensor_bytes": largest,
        "folds": len(plan.edits), "seconds": times,
        "ratio_to_copy": {name: {"ratio": found.ratio, "ci95": found.ci95} for name, found in ratios.items()},
        "peak_bytes": peak, "peak_bytes_at_start": start, "peak_bytes_limit": limit, "peak_within_limit": peak <= limit,
        "rewrite_peak_bytes": rewrite_peak, "rewrite_peak_bytes_at_start": rewrite_start,
    }


def rewrite_synced(source: Path, target: Path) -> None:
    """What a rewrite with onnx-ir alone does: load, a pass, save with external data; then wait for the disk."""
    target.mkdir()
    model = ir.load(source / MODEL)
    RemoveUnusedNodesPass()(model)
    ir.save(model, target / MODEL, external_data=DATA)
    sync_tree(target)


def _bytes(bundle: Bundle) -> int:
    return sum(entry.bytes for entry in bundle.manifest.files.values())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m foldrank.benchmarks.big_bundle", description=__doc__)
    parser.add_argument("--bytes", type=parse_size, default="8B", help="size of the bundle, such as 50M or 8B (8 GB)")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path(), help="folder on the disk to measure (default: here)")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="big-bundle-", dir=chosen.work) as work:
        found = measure(chosen.bytes, Path(work).absolute(), pairs=chosen.pairs, seed=chosen.seed)
    sys.stdout.write(json.dumps(found, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
