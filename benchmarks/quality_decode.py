"""CPU decode ratio of cells of the quality table: python -m foldrank.benchmarks.quality_decode MODEL -o quality.json

Plans each cell again, unless `--plans` has its plan, applies it to an exported graph and times dense against compressed
in one run (paired, batch 1). Adds `decode` (ratio, its 95 % interval, the ideal, the processor) and `bytes_ratio`
(graph and weights, compressed over dense) to the cell. Graphs of the same operators over matrices of the same shapes
do the same work, whatever their numbers: they are timed once, and their cells say of which cell (`timed`). Run it on
a quiet machine; `--plan-only` makes the plans beforehand. A model of a few million parameters fits the caches: its
ratio shows the overhead of small matrices, `cpu_speed` what memory-bound models gain.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from foldrank.benchmarks.bench import paired_bench
from foldrank.benchmarks.environment import cpu_model
from foldrank.benchmarks.quality_cells import Cell, keep_plan, load, save
from foldrank.benchmarks.workload import ENGINES, Profile, Workload
from foldrank.bundle.bundle import Bundle
from foldrank.graph.safe.load import load_model
from foldrank.model.checkpoint import Checkpoint
from foldrank.planfile.plan import Plan
from foldrank.plans.compose import make_plan
from foldrank.runtime.providers.provider import resolve
from foldrank.runtime.sessions.session import default_threads
from foldrank.verbs.apply import apply
from foldrank.verbs.export import export

Form = tuple[tuple[Any, int], ...]
"""Operators and weights' shapes of a graph, with how many there are."""


@dataclass(frozen=True)
class Bench:
    """The dense bundle, what is timed, a folder to work in, and what was timed before: by form, with the cell's key."""

    dense: Bundle
    profile: Profile
    work: Path
    timed: dict[Form, dict[str, Any]] = field(default_factory=dict)

    def figures(self, cell: Cell, plan: Plan) -> dict[str, Any]:
        """Apply a plan and time it where no graph of its form was. Raises as `apply` and `paired_bench` do."""
        small = apply(self.dense, plan, self.work / "small", force=True)
        form = form_of(small)
        if form not in self.timed:
            self.timed[form] = {**self._timed(small, cell.seed), "timed": cell.key}
        return {"decode": self.timed[form], "bytes_ratio": graph_bytes(small) / graph_bytes(self.dense)}

    def _timed(self, small: Bundle, seed: int) -> dict[str, Any]:
        bench = paired_bench(small, self.dense, resolve("cpu"), self.profile, threads=default_threads(), seed=seed)
        entry = next(entry for entry in bench.speedups if entry.phase == "decode")
        kept = ("engine", "prompt_tokens", "ratio", "ci95", "ideal", "realised_over_ideal", "stable")
        return {**{key: getattr(entry, key) for key in kept}, "cpu": cpu_model()}


def form_of(bundle: Bundle) -> Form:
    """What a bundle's graph computes, but for the numbers and the order of its blocks."""
    graph = load_model(bundle.model).graph
    operators = Counter((node.domain, node.op_type) for node in graph)
    weights = Counter((str(value.dtype), str(value.shape)) for value in graph.initializers.values())
    return tuple(sorted((operators + weights).items()))


def graph_bytes(bundle: Bundle) -> int:
    """Of a bundle's graph and weights."""
    return sum(path.stat().st_size for path in bundle.path.glob("*.onnx*"))


def planned(checkpoint: Checkpoint, cell: Cell, plans: Path) -> Plan:
    """The plan of a cell that the folder has, or one made now and kept there."""
    folder = plans / cell.file_name
    if not (folder / "plan.json").exists():
        keep_plan(make_plan(checkpoint, [cell.request], seed=cell.seed), cell, plans)
    return Plan.read(folder)


def untimed(found: dict[str, Any], wanted: Iterable[Cell]) -> list[Cell]:
    """Those of the cells that the file has, were in reach and were not timed."""
    there = ((cell, found["cells"].get(cell.key)) for cell in wanted)
    return [cell for cell, held in there if held is not None and not {"refused", "decode"} & held.keys()]


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.option("-o", "--output", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--method", "methods", multiple=True, required=True, help="As --method of plan, without keep.")
@click.option("--keep", "keeps", multiple=True, type=float, required=True)
@click.option("--seed", default=0)
@click.option("--pairs", default=20, help="20 or more.")
@click.option("--launches", default=2)
@click.option("--context", default=128)
@click.option("--plans", type=click.Path(path_type=Path), help="Where plans are, and are kept; default: nowhere.")
@click.option("--plan-only", is_flag=True, help="Make the plans that are missing and time nothing.")
def main(
    model: Path, output: Path, methods: tuple[str, ...], keeps: tuple[float, ...], seed: int, pairs: int, launches: int,
    context: int, plans: Path | None, plan_only: bool,
) -> None:
    """Time the cells that the file has and that were not timed, saving after each."""
    checkpoint, found = Checkpoint.open(model), load(output)
    workload = Workload(context, batch=1, tokens=32)
    profile = Profile("quality", (workload,), pairs=pairs, launches=launches, engines=ENGINES[:1])
    cells = untimed(found, (Cell(model.name, method, keep, seed) for keep in keeps for method in methods))
    with tempfile.TemporaryDirectory() as work:
        kept = plans or Path(work)
        if plan_only:
            for cell in cells:
                planned(checkpoint, cell, kept)
            return
        bench = Bench(export(model, Path(work) / "dense", dtype="fp32", offline=True), profile, Path(work))
        for cell in cells:
            found["cells"][cell.key] |= bench.figures(cell, planned(checkpoint, cell, kept))
            save(output, found)
            decode = found["cells"][cell.key]["decode"]
            click.echo(f"{cell.key}: {decode['ratio']:.3f} of {decode['ideal']:.3f}", err=True)


if __name__ == "__main__":
    main()
