"""How much of a fold's bytes comes back as decoding speed: `python -m foldrank.benchmarks.folded_decode`.

A random checkpoint large enough to be bound by memory (80M parameters, fp32) is exported, a third of its blocks folded
away, and both bundles are run against each other. Run it on a quiet machine; `--methods low_rank` adds random factors.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from foldrank import strictjson
from foldrank.benchmarks.bench import paired_bench
from foldrank.benchmarks.random_checkpoint import parse_size, shape_of, write_checkpoint
from foldrank.benchmarks.speed_plans import fold_plan, low_rank_plan
from foldrank.benchmarks.workload import ENGINES, Profile, Workload
from foldrank.bundle import Bundle
from foldrank.checkpoint import Checkpoint
from foldrank.planfile import Plan
from foldrank.progress import SILENT, Progress
from foldrank.runtime.providers import resolve
from foldrank.runtime.session import default_threads
from foldrank.staging import write_atomically
from foldrank.verbs.apply import apply
from foldrank.verbs.export import export

TARGET = 0.9
"""Least share of the ideal ratio that decoding at batch 1 must realise."""

WORKLOADS = (Workload(16, 1, 32), Workload(512, 1, 32))


def folded_decode(
    work: Path, *, parameters: int, plans: tuple[str, ...] = ("fold",), pairs: int = 24, launches: int = 4,
    engines: tuple[str, ...] = ENGINES, provider: str = "cpu", threads: int | None = None, seed: int = 0,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Make, export, compress and bench in the folder `work`. Gives one bench document per plan, and the verdict."""
    shape = shape_of(parameters)
    folder = write_checkpoint(shape, work / "checkpoint", seed=seed, progress=progress)
    dense = export(folder, work / "dense", dtype="fp32", provider=provider, offline=True, progress=progress)
    checkpoint = Checkpoint.open(folder, offline=True)
    profile = Profile("folded_decode", WORKLOADS, pairs=pairs, launches=launches, engines=engines)
    benches = {}
    for name in plans:
        small = apply(dense, _plan(name, checkpoint, seed), work / name, progress=progress)
        benches[name] = _bench(small, dense, provider, profile, threads or default_threads(), seed, progress)
    keys = ("engine", "prompt_tokens", "ratio", "ci95", "ideal", "realised_over_ideal", "stable")
    decoding = [
        {"plan": name, **{key: entry[key] for key in keys}}
        for name, bench in benches.items() for entry in bench["speedups"] if entry["phase"] == "decode"
    ]
    folded = [entry for entry in decoding if entry["plan"] == "fold"]
    return {
        "parameters": shape.parameters, "target": TARGET, "decoding": decoding,
        "reached": all(entry["realised_over_ideal"] >= TARGET for entry in folded), "benches": benches,
    }


def _plan(name: str, checkpoint: Checkpoint, seed: int) -> Plan:
    return fold_plan(checkpoint, checkpoint.blocks // 3) if name == "fold" else low_rank_plan(checkpoint, 0.5, seed)


def _bench(
    small: Bundle, dense: Bundle, provider: str, profile: Profile, threads: int, seed: int, progress: Progress
) -> dict[str, Any]:
    return paired_bench(small, dense, resolve(provider), profile, threads=threads, seed=seed, progress=progress)


@click.command()
@click.option("--parameters", default="80M", help="Size of the random checkpoint.")
@click.option("--methods", multiple=True, type=click.Choice(["fold", "low_rank"]), default=["fold"])
@click.option("--pairs", default=24)
@click.option("--launches", default=4)
@click.option("--threads", type=int)
@click.option("--seed", default=0)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("benchmarks/results/folded_decode.json"))
def main(
    parameters: str, methods: tuple[str, ...], pairs: int, launches: int, threads: int | None, seed: int, output: Path
) -> None:
    """Bench a folded random model against its dense one and write the result."""
    with tempfile.TemporaryDirectory() as work:
        result = folded_decode(
            Path(work), parameters=parse_size(parameters), plans=methods, pairs=pairs, launches=launches,
            threads=threads, seed=seed,
        )
    write_atomically(output.absolute(), strictjson.dumps(result).encode())
    for entry in result["decoding"]:
        click.echo("{plan} {engine} context {prompt_tokens}: {ratio:.3f} of {ideal:.3f} ideal "
                   "({realised_over_ideal:.2f})".format(**entry))
    click.echo(f"{'reached' if result['reached'] else 'missed'} {TARGET} of ideal; {output}")


if __name__ == "__main__":
    main()
