"""How much of the bytes saved comes back as decoding speed on this CPU: `python -m foldrank.benchmarks.cpu_speed`.

A random checkpoint large enough to be bound by memory (80M parameters, fp32) is exported; every plan is applied to it
and run against it in one run, with peers beside. Plans say what to cut, not what is best to cut: speed only. Run it on
a quiet machine.

    fold                  a third of the blocks leaves
    branches              a quarter of the blocks loses its attention, another quarter its MLP
    width_80              every MLP keeps 0.8 of its channels
    low_rank_80, _60      every weight a random pair of 0.8 or 0.6 of its numbers
    int4                  every weight in 4 bits (ONNX Runtime's MatMulNBits, activations in int8)
    fold_int4             both
    fold_low_rank_int4    a third of the blocks leaves, pairs of 0.6, all in 4 bits
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from foldrank import strictjson
from foldrank.benchmarks.bench import paired_bench
from foldrank.benchmarks.peers import PEERS
from foldrank.benchmarks.random_checkpoint import parse_size, shape_of, write_checkpoint
from foldrank.benchmarks.speed_plans import drop_plan, fold_plan, in_few_bits, low_rank_plan, nothing, slice_plan
from foldrank.benchmarks.statistics import estimate
from foldrank.benchmarks.workload import ENGINES, Profile, Workload
from foldrank.disk.staging import write_atomically
from foldrank.model.checkpoint import Checkpoint
from foldrank.planfile.plan import Plan
from foldrank.progress import SILENT, Progress
from foldrank.reports.bench import FORM, Bench
from foldrank.runtime.providers.provider import resolve
from foldrank.runtime.sessions.session import default_threads
from foldrank.verbs.apply import apply
from foldrank.verbs.export import export

TARGETS = {"fold": 0.95, "branches": 0.97, "width_80": 0.97, "low_rank_80": 0.9, "low_rank_60": 0.9}
"""Least share of the ideal ratio that decoding at batch 1 must realise."""

PEER_TARGETS = {"genai-default": 1.0, "optimum": 1.25}
"""How many times as fast as these the dense bundle must decode."""

BANDWIDTH_USE = 0.7
"""Least share of the measured bandwidth that the dense bundle must use."""

NULL_WIDTH = 0.02
"""Widest 95 % interval of dense against dense that may be left while decoding, all runs together."""


@dataclass(frozen=True)
class Settings:
    """What is made and how long it is measured."""

    parameters: int
    plans: tuple[str, ...]
    contexts: tuple[int, ...] = (16, 512)
    tokens: int = 64
    pairs: int = 24
    launches: int = 4
    engines: tuple[str, ...] = ENGINES
    peers: tuple[str, ...] = ()
    threads: int | None = None
    seed: int = 0

    @property
    def profile(self) -> Profile:
        """Batch 1 after each context."""
        workloads = tuple(Workload(context, batch=1, tokens=self.tokens) for context in self.contexts)
        return Profile("cpu_speed", workloads, pairs=self.pairs, launches=self.launches, engines=self.engines)


def _fold(checkpoint: Checkpoint, _seed: int) -> Plan:
    return fold_plan(checkpoint, checkpoint.blocks // 3)


def _low_rank(keep: float, checkpoint: Checkpoint, seed: int) -> Plan:
    return low_rank_plan(checkpoint, keep, seed)


def _both(checkpoint: Checkpoint, seed: int) -> Plan:
    return low_rank_plan(checkpoint, 0.6, seed, folds=checkpoint.blocks // 3)


PLANS: dict[str, Callable[[Checkpoint, int], Plan]] = {
    "fold": _fold,
    "branches": lambda checkpoint, _: drop_plan(checkpoint, 4),
    "width_80": lambda checkpoint, _: slice_plan(checkpoint, 0.8),
    "low_rank_80": partial(_low_rank, 0.8),
    "low_rank_60": partial(_low_rank, 0.6),
    "int4": lambda checkpoint, _: in_few_bits(nothing(checkpoint), checkpoint),
    "fold_int4": lambda checkpoint, seed: in_few_bits(_fold(checkpoint, seed), checkpoint),
    "fold_low_rank_int4": lambda checkpoint, seed: in_few_bits(_both(checkpoint, seed), checkpoint),
}


def cpu_speed(
    work: Path, settings: Settings, before: Mapping[str, dict[str, Any]] | None = None, progress: Progress = SILENT
) -> dict[str, Any]:
    """Make, export, compress and bench in the folder `work`. Gives one bench document per plan, and the verdict.

    `before`: documents of other plans, as an earlier run gave them. Peers are measured beside the first plan.
    """
    shape = shape_of(settings.parameters)
    folder = write_checkpoint(shape, work / "checkpoint", seed=settings.seed, progress=progress)
    dense = export(folder, work / "dense", dtype="fp32", offline=True, progress=progress)
    checkpoint = Checkpoint.open(folder, offline=True)
    benches: dict[str, dict[str, Any]] = {}
    for name in settings.plans:
        small = apply(dense, PLANS[name](checkpoint, settings.seed), work / name, progress=progress)
        benches[name] = FORM.document(paired_bench(
            small, dense, resolve("cpu"), settings.profile, threads=settings.threads or default_threads(),
            seed=settings.seed, peers=() if benches else settings.peers, progress=progress,
        ))
    known = {**(before or {}), **benches}
    benches = {name: known[name] for name in PLANS if name in known}
    found = {name: FORM.parse(bench) for name, bench in benches.items()}
    return {"parameters": shape.parameters, **_verdict(found), "benches": benches}


def _verdict(benches: Mapping[str, Bench]) -> dict[str, Any]:
    """Every decode ratio beside its ideal, and every target with the value held against it."""
    keys = ("engine", "prompt_tokens", "ratio", "ci95", "ideal", "realised_over_ideal", "stable")
    decoding = [
        {"plan": name, **{key: getattr(entry, key) for key in keys}}
        for name, bench in benches.items() for entry in bench.speedups if entry.phase == "decode"
    ]
    found = [
        (f"{name}, realised over ideal", limit,
         [entry["realised_over_ideal"] for entry in decoding if entry["plan"] == name])
        for name, limit in TARGETS.items()
    ]
    found += [
        (f"dense, times as fast as {peer}", limit,
         [entry.ratio for bench in benches.values() if bench.peers for entry in bench.peers.entries
          if entry.peer == peer and entry.phase == "decode"])
        for peer, limit in PEER_TARGETS.items()
    ]
    rows = [row for bench in benches.values() for row in bench.rows if row.bundle == "dense"]
    used = [row.bandwidth_use for row in rows if row.bandwidth_use]
    found.append(("dense, bandwidth use", BANDWIDTH_USE, used))
    targets = [_target(name, "at least", limit, min(values)) for name, limit, values in found if values]
    nulls = _nulls(benches)
    widest = max(null["ci95"][1] - null["ci95"][0] for null in nulls)
    off = max(0.0, *(max(null["ci95"][0] - 1.0, 1.0 - null["ci95"][1]) for null in nulls))
    targets += [_target("dense against dense over all runs, width of the interval", "at most", NULL_WIDTH, widest),
                _target("dense against dense over all runs, distance of the interval from 1.00", "at most", 0.0, off)]
    return {"decoding": decoding, "null_tests": nulls, "targets": targets}


def _nulls(benches: Mapping[str, Bench]) -> list[dict[str, Any]]:
    """Dense against dense while decoding, after each context: one dense bundle was in every run, so their launches
    count together."""
    held: dict[tuple[str, int], list[list[float]]] = {}
    for bench in benches.values():
        for row in bench.null_test.rows or ():
            if row.phase == "decode":
                held.setdefault((row.engine, row.prompt_tokens), []).extend(row.pair_ratios)
    found = []
    for (engine, context), launches in held.items():
        least = min(map(len, launches))
        whole = estimate([launch[:least] for launch in launches], 0)
        found.append({"engine": engine, "prompt_tokens": context, "launches": len(launches), "ratio": whole.ratio,
                      "ci95": whole.ci95})
    return found


def _target(name: str, bound: str, limit: float, value: float) -> dict[str, Any]:
    reached = value >= limit if bound == "at least" else value <= limit
    return {"target": name, "bound": bound, "limit": limit, "value": value, "reached": reached}


@click.command()
@click.option("--parameters", default="80M", help="Size of the random checkpoint.")
@click.option("--plan", "plans", multiple=True, type=click.Choice(list(PLANS)), default=list(PLANS))
@click.option("--pairs", default=24)
@click.option("--launches", default=4)
@click.option("--context", "contexts", multiple=True, type=int, default=(16, 512))
@click.option("--tokens", default=64, help="Made after each context.")
@click.option("--engine", "engines", multiple=True, type=click.Choice(ENGINES), default=ENGINES)
@click.option("--against", "peers", multiple=True, type=click.Choice(PEERS))
@click.option("--threads", type=int)
@click.option("--seed", default=0)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("benchmarks/results/cpu_speed.json"))
def main(output: Path, parameters: str, **options: Any) -> None:
    """Bench compressed random models against their dense one and write the result; other plans in the file stay."""
    settings = Settings(parse_size(parameters), **options)
    before = strictjson.read(output)["benches"] if output.exists() else {}
    with tempfile.TemporaryDirectory() as work:
        result = cpu_speed(Path(work), settings, before)
    write_atomically(output.absolute(), strictjson.dumps(result).encode())
    for entry in result["decoding"]:
        click.echo("{plan} {engine} context {prompt_tokens}: {ratio:.3f} of {ideal:.3f} ideal "
                   "({realised_over_ideal:.2f})".format(**entry))
    for target in result["targets"]:
        said = "reached" if target["reached"] else "missed"
        click.echo(f"{target['target']}: {target['value']:.3g} {target['bound']}, {target['limit']} asked: {said}")


if __name__ == "__main__":
    main()
