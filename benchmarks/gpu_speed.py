"""Dense, folded, factored, in few bits and together, on a device: python -m foldrank.benchmarks.gpu_speed -o DIR

Random checkpoints of several sizes are exported in fp16 for the provider; plans that say what to cut, not what is best
to cut, make the rivals. All bundles of a size stay open in processes of their own and take turns with the dense one
(A B B A), decoding at batch 1 and 8, inside a CUDA graph and without. For speed only: the weights are noise.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from foldrank import strictjson
from foldrank.benchmarks import document
from foldrank.benchmarks.bandwidth import device_bandwidth
from foldrank.benchmarks.child import Child
from foldrank.benchmarks.environment import environment
from foldrank.benchmarks.ideal import count_file
from foldrank.benchmarks.paired import NULL, SPEED, Series, Setup, duel, opened, warm
from foldrank.benchmarks.random_checkpoint import parse_size, shape_of, write_checkpoint
from foldrank.benchmarks.speed_plans import fold_plan, in_few_bits, low_rank_plan, nothing
from foldrank.benchmarks.workload import Workload
from foldrank.bundle.bundle import Bundle
from foldrank.disk.staging import write_atomically
from foldrank.model.checkpoint import Checkpoint
from foldrank.planfile.plan import Plan
from foldrank.reports.form import plain
from foldrank.runtime.decoding.resident import GRAPH_OPTION
from foldrank.runtime.providers.gpu import Gpu
from foldrank.runtime.providers.provider import Provider, resolve
from foldrank.runtime.sessions.session import default_threads
from foldrank.verbs.apply import apply
from foldrank.verbs.export import export

MULTIPLE = 64
"""Ranks are rounded down to this: tiles of fp16 tensor cores."""


PLANS = ("fold 0.75", "low rank 0.8", "low rank 0.6", "fold 0.75, low rank 0.8",
         "int4", "fold 0.75, int4", "low rank 0.8, int4", "fold 0.75, low rank 0.8, int4")
"""What the rivals are made by; `plan_of` reads them."""


@dataclass(frozen=True)
class Asked:
    """What is made and measured. `cases`: (engine, CUDA graph or not)."""

    provider: str
    dtype: str
    cases: tuple[tuple[str, bool], ...]
    workloads: tuple[Workload, ...]
    plans: tuple[str, ...]
    pairs: int = 20
    warmups: int = 5
    seed: int = 0


def plan_of(name: str, checkpoint: Checkpoint, seed: int) -> Plan:
    """The plan of such a name: a quarter of the blocks folded away, then pairs, then 4 bits for what is left."""
    parts = name.split(", ")
    folds = checkpoint.blocks // 4 if "fold 0.75" in parts else 0
    keep = next((float(part.removeprefix("low rank ")) for part in parts if part.startswith("low rank ")), None)
    if keep is not None:
        plan = low_rank_plan(checkpoint, keep, seed, folds=folds, multiple=MULTIPLE)
    else:
        plan = fold_plan(checkpoint, folds) if folds else nothing(checkpoint)
    return in_few_bits(plan, checkpoint) if "int4" in parts else plan


def bundles(work: Path, parameters: int, asked: Asked) -> dict[str, Bundle]:
    """The dense bundle and its rivals, each in a folder of its own; those that are there are taken as they are."""
    checkpoint = work / "checkpoint"
    if not checkpoint.is_dir():
        write_checkpoint(shape_of(parameters), checkpoint, seed=asked.seed, dtype="float16")
    opened = Checkpoint.open(checkpoint, offline=True)
    dense = _there_or(work / "dense", lambda folder: export(
        checkpoint, folder, dtype=asked.dtype, provider=asked.provider, offline=True))

    def rival(name: str) -> Bundle:
        return _there_or(work / name.replace(", ", "+").replace(" ", "_"),
                         lambda folder: apply(dense, plan_of(name, opened, asked.seed), folder))

    return {"dense": dense} | {name: rival(name) for name in asked.plans}


def _there_or(folder: Path, make: Callable[[Path], Bundle]) -> Bundle:
    return Bundle.open(folder) if folder.is_dir() else make(folder)


def contest(found: Mapping[str, Bundle], engine: str, setup: Setup, asked: Asked) -> dict[str, Series]:
    """Samples of every rival against dense, and of dense against itself, all processes open at once."""
    folders = {name: bundle.path for name, bundle in found.items()} | {"dense again": found["dense"].path}
    series = {name: Series(engine) for name in folders if name != "dense"}
    with ExitStack() as stack:
        children = {name: stack.enter_context(Child(f"{name} in {engine}")) for name in folders}
        told = {name: opened(child, folders[name], engine, setup) for name, child in children.items()}
        for workload in asked.workloads:
            warm(children.values(), workload, setup, asked.warmups)
            for name, one in series.items():
                kind = NULL if name == "dense again" else SPEED
                pairs = duel(children["dense"], children[name], workload, setup, asked.pairs)
                one.pairs[kind, workload] = [pairs]
        memory = {name: child.ask("memory") for name, child in children.items()}
    for name, one in series.items():
        for role, who in (("dense", "dense"), ("compressed", name)):
            one.opened[role] = told[who]
            one.peaks[role], one.on_card[role] = [memory[who]["peak_rss_bytes"]], [memory[who]["gpu_bytes"]]
    return series


def measured(found: Mapping[str, Bundle], asked: Asked) -> list[dict[str, Any]]:
    """One entry per case: rows, speedups and memory of every rival, and the null test."""
    work = {name: count_file(bundle.model) for name, bundle in found.items()}
    entries = []
    for engine, graph in asked.cases:
        options = {GRAPH_OPTION: "1" if graph else "0"} if asked.provider == "cuda" else {}
        on = resolve(asked.provider, options)
        setup = Setup(on, default_threads(), int(found["dense"].json("config.json")["vocab_size"]), asked.seed)
        before, card = device_bandwidth(on), Gpu.of(on)
        series = contest(found, engine, setup, replace(asked, workloads=_taken(engine, graph, asked.workloads)))
        bandwidth = max(before, device_bandwidth(on))
        entries.append({
            "engine": engine, "cuda_graph": graph, "bandwidth_bytes_per_s": bandwidth,
            "gpu_state": card and card.state(), "null_test": plain(document.null_test([series["dense again"]], setup)),
            "rivals": {
                name: _described(series[name], setup, document.Yardstick(
                    {"dense": work["dense"], "compressed": work[name]}, bandwidth, None))
                for name in found if name != "dense"
            },
        })
    return entries


def _taken(engine: str, graph: bool, workloads: tuple[Workload, ...]) -> tuple[Workload, ...]:
    """What the engine takes: onnxruntime-genai 0.18 refuses prompts of several rows with a CUDA graph."""
    return tuple(one for one in workloads if one.batch == 1) if (engine, graph) == ("genai", True) else workloads


def _described(series: Series, setup: Setup, yardstick: document.Yardstick) -> dict[str, Any]:
    return {"speedups": plain(document.speedups(series, setup, yardstick)),
            "rows": plain(document.rows(series, setup, yardstick)), "memory": plain(document.memory(series))}


def _say(parameters: str, entry: Mapping[str, Any]) -> None:
    null = entry["null_test"]
    click.echo(f"{parameters} {entry['engine']} graph={entry['cuda_graph']}: null {null['ratio']:.3f} {null['ci95']}, "
               f"bandwidth {entry['bandwidth_bytes_per_s'] / 1e12:.2f} TB/s")
    for name, rival in entry["rivals"].items():
        for one in rival["speedups"]:
            click.echo(f"  {name}, {one['phase']} batch {one['batch']}: {one['ratio']:.3f} of {one['ideal']:.3f} "
                       f"({one['realised_over_ideal']:.2f})")


@click.command()
@click.option("--parameters", "sizes", multiple=True, default=["100M", "1B"])
@click.option("--provider", default="cuda")
@click.option("--dtype", default="fp16")
@click.option("--case", "cases", multiple=True, default=["onnxruntime+graph", "onnxruntime", "genai+graph"],
              help="Engine, with +graph inside a CUDA graph.")
@click.option("--plan", "plans", multiple=True, type=click.Choice(PLANS), default=PLANS)
@click.option("--batch", "batches", multiple=True, type=int, default=[1, 8])
@click.option("--context", default=512)
@click.option("--tokens", default=32)
@click.option("--pairs", default=20)
@click.option("--work", type=click.Path(path_type=Path), help="Where bundles are made and stay, to be used again.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="A folder, one file a size.")
def main(
    sizes: tuple[str, ...], provider: str, dtype: str, cases: tuple[str, ...], plans: tuple[str, ...],
    batches: tuple[int, ...], context: int, tokens: int, pairs: int,
    work: Path | None, output: Path,
) -> None:
    """Measure every size and write one JSON file each."""
    output.mkdir(parents=True, exist_ok=True)
    asked = Asked(provider, dtype, tuple((case.split("+")[0], case.endswith("+graph")) for case in cases),
                  tuple(Workload(context, batch, tokens) for batch in batches), plans, pairs)
    card = Gpu.of(Provider(provider))
    for size in sizes:
        with tempfile.TemporaryDirectory() as scratch:
            found = bundles((work or Path(scratch)) / size.lower(), parse_size(size), asked)
            entries = measured(found, asked)
        for entry in entries:
            _say(size, entry)
        result = {"parameters": shape_of(parse_size(size)).parameters, "dtype": dtype, "provider": provider,
                  "environment": {**environment(default_threads()), "gpu": card and card.facts()}, "cases": entries}
        write_atomically((output / f"gpu_speed_{size.lower()}.json").absolute(), strictjson.dumps(result).encode())


if __name__ == "__main__":
    main()
