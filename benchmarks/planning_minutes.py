"""What planning takes, from command line to plan: `python -m foldrank.benchmarks.planning_minutes MODEL -o FILE`.

Each method is planned by a process of its own, with the default calibration and an empty cache. Seconds are of the
wall and of all cores; peak memory is that of the process. Rows that FILE has are not made again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from foldrank.benchmarks.environment import environment

METHODS = ("slm:keep=0.9", "dipsvd:keep=0.9", "width:keep=0.9", "quantize:bits=4", "auto:keep=0.9,effort=low",
           "auto:keep=0.9")


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
@click.option("--method", "methods", multiple=True, default=METHODS, show_default=True)
def main(model: Path, output: Path, methods: tuple[str, ...]) -> None:
    """Plan by each method, and write a row for each as it comes."""
    document: dict[str, Any] = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {
        "model": model.name, "environment": environment(len(os.sched_getaffinity(0))), "rows": []}
    for method in methods:
        if any(row["method"] == method for row in document["rows"]):
            continue
        document["rows"].append({"method": method, **planned(model, method)})
        output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def planned(model: Path, method: str) -> dict[str, Any]:
    """`wall_s`, `cpu_s`, `peak_rss_bytes` and `load_average` (as it began) of one plan. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "foldrank", "plan", str(model), "--method", method, "-o", f"{folder}/plan", "-q"]
        load, began = os.getloadavg()[0], time.perf_counter()
        child = subprocess.Popen(words, stdout=subprocess.DEVNULL, env={**os.environ, "XDG_CACHE_HOME": folder})
        _, status, used = os.wait4(child.pid, 0)
        wall = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, words)
    return {"wall_s": round(wall, 1), "cpu_s": round(used.ru_utime + used.ru_stime, 1),
            "peak_rss_bytes": used.ru_maxrss * 1024, "load_average": round(load, 2)}


if __name__ == "__main__":
    main()
