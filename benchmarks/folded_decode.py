"""How much of a fold's bytes comes back as decoding speed: `python -m foldrank.benchmarks.folded_decode`.

A random checkpoint large enough to be bound by memory (80M parameters, fp32) is exported, a third of its blocks folded
away, and both bundles are run against each other. Run it on a quiet machine. `--plan fold --plan low_rank` adds a
bundle of random factors.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from foldrank import strictjson
from foldrank.benchmarks.bench import paired_bench
from foldrank.benchmarks.random_checkpoint import parse_size, shape_of, write_checkpoint
from foldrank.benchmarks.speed_plans import fold_plan, low_rank_plan
from foldrank.benchmarks.workload import Profile, Workload
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


@dataclass(frozen=True)
class Settings:
    """What is made and how long it is measured. `plans`: `fold` (a third of the blocks), `low_rank` (half of all)."""

    parameters: int
    plans: tuple[str, ...] = ("fold",)
    contexts: tuple[int, ...] = (16, 512)
    pairs: int = 24
    launches: int = 4
    threads: int | None = None
    seed: int = 0

    @property
    def profile(self) -> Profile:
        """Batch 1 after each context."""
        workloads = tuple(Workload(context, batch=1, tokens=32) for context in self.contexts)
        return Profile("folded_decode", workloads, pairs=self.pairs, launches=self.launches)


def folded_decode(work: Path, settings: Settings, progress: Progress = SILENT) -> dict[str, Any]:
    """Make, export, compress and bench in the folder `work`. Gives one bench document per plan, and the verdict."""
    shape = shape_of(settings.parameters)
    folder = write_checkpoint(shape, work / "checkpoint", seed=settings.seed, progress=progress)
    dense = export(folder, work / "dense", dtype="fp32", offline=True, progress=progress)
    checkpoint = Checkpoint.open(folder, offline=True)
    benches = {}
    for name in settings.plans:
        small = apply(dense, _plan(name, checkpoint, settings.seed), work / name, progress=progress)
        benches[name] = _bench(small, dense, settings, progress)
    return {"parameters": shape.parameters, "target": TARGET, **_verdict(benches), "benches": benches}


def _verdict(benches: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Every decode ratio beside its ideal; the target is the fold's alone."""
    keys = ("engine", "prompt_tokens", "ratio", "ci95", "ideal", "realised_over_ideal", "stable")
    decoding = [
        {"plan": name, **{key: entry[key] for key in keys}}
        for name, bench in benches.items() for entry in bench["speedups"] if entry["phase"] == "decode"
    ]
    folded = [entry["realised_over_ideal"] for entry in decoding if entry["plan"] == "fold"]
    return {"decoding": decoding, "reached": min(folded) >= TARGET if folded else None}


def _plan(name: str, checkpoint: Checkpoint, seed: int) -> Plan:
    return fold_plan(checkpoint, checkpoint.blocks // 3) if name == "fold" else low_rank_plan(checkpoint, 0.5, seed)


def _bench(small: Bundle, dense: Bundle, settings: Settings, progress: Progress) -> dict[str, Any]:
    threads = settings.threads or default_threads()
    return paired_bench(
        small, dense, resolve("cpu"), settings.profile, threads=threads, seed=settings.seed, progress=progress
    )


@click.command()
@click.option("--parameters", default="80M", help="Size of the random checkpoint.")
@click.option("--plan", "plans", multiple=True, type=click.Choice(["fold", "low_rank"]), default=["fold"])
@click.option("--pairs", default=24)
@click.option("--launches", default=4)
@click.option("--context", "contexts", multiple=True, type=int, default=(16, 512))
@click.option("--threads", type=int)
@click.option("--seed", default=0)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("benchmarks/results/folded_decode.json"))
def main(output: Path, parameters: str, **options: Any) -> None:
    """Bench a folded random model against its dense one and write the result."""
    settings = Settings(parse_size(parameters), **options)
    with tempfile.TemporaryDirectory() as work:
        result = folded_decode(Path(work), settings)
    write_atomically(output.absolute(), strictjson.dumps(result).encode())
    for entry in result["decoding"]:
        click.echo("{plan} {engine} context {prompt_tokens}: {ratio:.3f} of {ideal:.3f} ideal "
                   "({realised_over_ideal:.2f})".format(**entry))
    said = {True: "reached", False: "missed", None: "no fold was run to judge"}[result["reached"]]
    click.echo(f"{said}: {TARGET} of ideal; {output}")


if __name__ == "__main__":
    main()
