"""CPU decode ratio of cells of the quality table: python -m foldrank.benchmarks.quality_decode MODEL -o quality.json

Plans each cell again, applies it to an exported graph and times dense against compressed in one run (paired, batch 1).
Adds `decode` (ratio, its 95 % interval, the ideal) and `bytes_ratio` (weights' files, compressed over dense) to the
cell. Run it on a quiet machine. A model of a few million parameters fits the caches: its ratio shows the overhead of
small matrices, `cpu_speed` what memory-bound models gain.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from foldrank.benchmarks.bench import paired_bench
from foldrank.benchmarks.quality import Cell, load, save
from foldrank.benchmarks.workload import ENGINES, Profile, Workload
from foldrank.bundle import Bundle
from foldrank.checkpoint import Checkpoint
from foldrank.plans.compose import make_plan
from foldrank.runtime.providers import resolve
from foldrank.runtime.session import default_threads
from foldrank.verbs.apply import apply
from foldrank.verbs.export import export


def decode_figures(checkpoint: Checkpoint, cell: Cell, dense: Bundle, profile: Profile, work: Path) -> dict[str, Any]:
    """Plan, apply and time one cell. Raises as `plan` and `apply` do."""
    plan = make_plan(checkpoint, [cell.request], seed=cell.seed)
    small = apply(dense, plan, work / "small", force=True)
    bench = paired_bench(small, dense, resolve("cpu"), profile, threads=default_threads(), seed=cell.seed)
    entry = next(entry for entry in bench["speedups"] if entry["phase"] == "decode")
    kept = ("engine", "prompt_tokens", "ratio", "ci95", "ideal", "realised_over_ideal", "stable")
    return {"decode": {key: entry[key] for key in kept}, "bytes_ratio": graph_bytes(small) / graph_bytes(dense)}


def graph_bytes(bundle: Bundle) -> int:
    """Of a bundle's graph and weights."""
    return sum(path.stat().st_size for path in bundle.path.glob("*.onnx*"))


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.option("-o", "--output", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--method", "methods", multiple=True, required=True, help="As --method of plan, without keep.")
@click.option("--keep", "keeps", multiple=True, type=float, required=True)
@click.option("--seed", default=0)
@click.option("--pairs", default=20, help="20 or more.")
@click.option("--launches", default=2)
@click.option("--context", default=128)
def main(
    model: Path, output: Path, methods: tuple[str, ...], keeps: tuple[float, ...], seed: int, pairs: int, launches: int,
    context: int,
) -> None:
    """Time the cells that the file has and that were not timed, saving after each."""
    checkpoint, found = Checkpoint.open(model), load(output)
    workload = Workload(context, batch=1, tokens=32)
    profile = Profile("quality", (workload,), pairs=pairs, launches=launches, engines=ENGINES[:1])
    with tempfile.TemporaryDirectory() as work:
        dense = export(model, Path(work) / "dense", dtype="fp32", offline=True)
        for cell in (Cell(model.name, method, keep, seed) for keep in keeps for method in methods):
            held = found["cells"].get(cell.key)
            if held is None or "refused" in held or "decode" in held:
                continue
            held |= decode_figures(checkpoint, cell, dense, profile, Path(work))
            save(output, found)
            click.echo(f"{cell.key}: {held['decode']['ratio']:.3f} of {held['decode']['ideal']:.3f}", err=True)


if __name__ == "__main__":
    main()
