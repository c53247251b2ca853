"""Time and memory of planning a large random checkpoint: python -m foldrank.benchmarks.planning_large 7B -o JSON

`slm:keep=0.75` and `dipsvd:keep=0.8` on 16 calibration windows of 512 tokens, on the CPU or a GPU, with the seconds of
every stage. Nothing cached is used. The weights are noise: no quality figure may come from it.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import torch

from foldrank import strictjson
from foldrank.benchmarks.environment import environment
from foldrank.benchmarks.random_checkpoint import parse_size, shape_of, write_checkpoint
from foldrank.disk.staging import write_atomically
from foldrank.verbs.plan import plan

METHODS = ("slm:keep=0.75", "dipsvd:keep=0.8")
TOKENS = 8192


class Stages:
    """Seconds of every stage, as progress tells of it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._started: dict[str, float] = {}

    def start(self, stage: str, total: int | None, done: int = 0) -> None:
        """Remember when."""
        self._started[stage] = time.perf_counter()

    def advance(self, stage: str, steps: int = 1) -> None:
        """Nothing."""

    def finish(self, stage: str) -> None:
        """Add what it took."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - self._started[stage]


def planned(checkpoint: Path, output: Path, device: str) -> dict[str, Any]:
    """Plan, write the plan, and say what it took."""
    os.environ["FOLDRANK_NO_CACHE"] = "1"
    stages, begin = Stages(), time.perf_counter()
    made = plan(checkpoint, output, methods=METHODS, calibration_tokens=TOKENS, device=device, offline=True,
                progress=stages)
    seconds = time.perf_counter() - begin
    on_card = device.startswith("cuda")
    return {
        "seconds": seconds, "stages_s": stages.seconds, "device": device, "methods": list(METHODS), "tokens": TOKENS,
        "windows": made.document.calibration and made.document.calibration.windows,
        "gpu": torch.cuda.get_device_name(device) if on_card else None,
        "gpu_peak_bytes": torch.cuda.max_memory_allocated(device) if on_card else None,
        "peak_rss_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "environment": environment(torch.get_num_threads()), "torch": torch.__version__,
    }


@click.command()
@click.argument("parameters")
@click.option("--checkpoint", type=click.Path(path_type=Path, exists=True), help="One made before, of that size.")
@click.option("--device", default="cpu")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
def main(parameters: str, checkpoint: Path | None, device: str, output: Path) -> None:
    """Make a random checkpoint of that size, plan it and write what it took."""
    shape = shape_of(parse_size(parameters))
    with tempfile.TemporaryDirectory() as work:
        source = checkpoint or write_checkpoint(shape, Path(work) / "checkpoint", dtype="float16")
        found = {"parameters": shape.parameters, "blocks": shape.blocks, **planned(source, Path(work) / "plan", device)}
    write_atomically(output.absolute(), strictjson.dumps(found).encode())
    click.echo(f"{shape.parameters:,} parameters planned on {device} in {found['seconds']:.0f} s")


if __name__ == "__main__":
    main()
