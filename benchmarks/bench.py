"""Bench a compressed bundle against its dense one: bundles in, the document of reports/bench.json out.

Measures nothing itself (`paired.py`) and judges nothing but the gate asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from foldrank.benchmarks import document
from foldrank.benchmarks.bandwidth import device_bandwidth, read_bandwidth
from foldrank.benchmarks.budget import Budget
from foldrank.benchmarks.child import TUNABLES
from foldrank.benchmarks.environment import environment, last_level_cache_bytes
from foldrank.benchmarks.ideal import Work, count_file
from foldrank.benchmarks.paired import Setup, run
from foldrank.benchmarks.peers import Ours, against
from foldrank.benchmarks.placement import placements
from foldrank.benchmarks.schedule import FEW, ONE, WHOLE, Turns
from foldrank.benchmarks.statistics import SPREAD, UNSTABLE_ABOVE
from foldrank.benchmarks.workload import Profile
from foldrank.bundle.bundle import Bundle, source_differs
from foldrank.errors import BundleError
from foldrank.model.facts import context_length
from foldrank.progress import SILENT, Progress
from foldrank.reports.bench import Bench, NullTest, Speedup, headline
from foldrank.reports.form import Gate
from foldrank.reports.machine import Environment, Method
from foldrank.runtime.providers.gpu import Gpu
from foldrank.runtime.providers.provider import Provider

CACHES = 2
"""Weights of so many last-level caches leave nothing in them that the next token could find."""

RATIO = "dense over compressed, median of pairs; where turns are tokens a pair's is the median over readings or tokens"


def paired_bench(
    compressed: Bundle, dense: Bundle, provider: Provider, profile: Profile, *, threads: int, seed: int,
    min_speedup: float | None = None, peers: Sequence[str] = (), gguf: Path | None = None,
    budget_s: float | None = None, progress: Progress = SILENT,
) -> Bench:
    """Measure and describe; `peers` and the `gguf` file that llama.cpp runs as in `peers.py`, `budget_s` as in
    `budget.py`.

    Raises BundleError (bundles that cannot be compared), ProviderUnavailable, SourceError.
    """
    budget = Budget(budget_s)
    check_comparable(compressed, dense)
    profile, dropped = _fit(profile, dense)
    work = {"dense": count_file(dense.model), "compressed": count_file(compressed.model)}
    cache_bytes = last_level_cache_bytes()
    setup = Setup(provider, threads, int(dense.json("config.json")["vocab_size"]), seed,
                  turns=turns(provider, work.values(), cache_bytes), reading_s=profile.reading_s)
    before = _bandwidth(provider, threads)
    card = Gpu.of(provider)
    states = [card and card.state()]
    series, missing = run(dense.path, compressed.path, setup, profile, progress, budget)
    states.append(card and card.state())
    probes = before + _bandwidth(provider, threads)
    yardstick = document.Yardstick(work, max(probes, default=None), cache_bytes)
    on_card: dict[str, Any] = (
        {} if provider.processor == "cpu" else {"gpu": card and card.facts(), "gpu_states": states})
    speedups = [entry for one in series for entry in document.speedups(one, setup, yardstick)]
    null = document.null_test(series, setup)
    gates = speed_gates(speedups, null, min_speedup)
    ours = Ours(dense, compressed, series[0].engine, gguf)
    return Bench(
        null_test=null,
        rows=[row for one in series for row in document.rows(one, setup, yardstick)],
        speedups=speedups,
        memory=[entry for one in series for entry in document.memory(one)],
        energy=[entry for one in series for entry in document.energy(one)],
        peers=against(peers, ours, setup, profile, progress) if peers else None,
        placement=placements({"dense": dense, "compressed": compressed}, provider, threads),
        environment=Environment(
            **environment(threads), **on_card, bandwidth_bytes_per_s=yardstick.bandwidth,
            bandwidth_probes_bytes_per_s=probes, spinning="in_runs", glibc_tunables=TUNABLES,
            pinned=all(opened["pinned"] for one in series for opened in one.opened.values())),
        method=_method(profile, setup, dropped, missing, budget),
        gates=gates, verdict="pass" if all(gate.passed for gate in gates) else "fail",
    )


def turns(provider: Provider, work: Iterable[Work], cache_bytes: int | None) -> Turns:
    """Turns of one token where no bundle's weights stay in the last cache from one to the next, else of a few.

    On a device whole samples: two processes that take turns there pay for each change.
    """
    if provider.processor != "cpu":
        return WHOLE
    least = min(one.weight_bytes for one in work)
    return FEW if cache_bytes is None or least < CACHES * cache_bytes else ONE


def check_comparable(compressed: Bundle, dense: Bundle) -> None:
    """One dtype and one checkpoint, or the ratio would not be the compression's. Raises BundleError."""
    reasons = []
    if (ours := compressed.manifest.dtype) != (theirs := dense.manifest.dtype):
        reasons.append(f"its dtype is {ours}, that of the baseline {dense.path} {theirs}")
    if different := source_differs(compressed.manifest.source, dense.manifest.source):
        reasons.append(f"it is of another checkpoint than the baseline {dense.path} ({different})")
    if reasons:
        raise BundleError(compressed.path, " | ".join(reasons), "give the bundle it was made from as --baseline")


def speed_gates(
    speedups: Sequence[Speedup], null: NullTest, min_speedup: float | None
) -> list[Gate]:
    """Decoding at batch 1 must be faster by that much, with the interval's lower end, in every engine; and dense
    against dense must be no different, or the machine was not quiet enough to say so."""
    if min_speedup is None:
        return []
    gates = []
    for engine in dict.fromkeys(entry.engine for entry in speedups):
        least = headline([entry for entry in speedups if entry.engine == engine]).ci95[0]
        gates.append(Gate(
            name=f"min_speedup {engine}", limit=min_speedup, value=least, passed=least >= min_speedup,
            rule="lower end of the 95 % interval, decode at batch 1",
        ))
    distance = max(null.ci95[0] - 1.0, 1.0 - null.ci95[1], 0.0)
    gates.append(Gate(
        name="null_test", limit=0.0, value=distance, passed=null.passed,
        rule="distance of dense against dense's 95 % interval from 1.00",
    ))
    return gates


def _method(
    profile: Profile, setup: Setup, dropped: list[int], missing: dict[str, str], budget: Budget
) -> Method:
    return Method(
        profile=profile.name, provider=setup.provider.short, instead_of=setup.provider.instead_of,
        engines=[name for name in profile.engines if name not in {**missing, **budget.left_out}],
        unavailable=missing, order="A B B A", turns=str(setup.turns), pairs=profile.pairs,
        warmups=profile.warmups, launches=profile.launches, seed=setup.seed, dropped_prompts=dropped,
        left_out=budget.left_out, ratio=RATIO, spread=SPREAD, unstable_above=UNSTABLE_ABOVE,
        interval="95 % percentile bootstrap over launches, then pairs",
    )


def _fit(profile: Profile, dense: Bundle) -> tuple[Profile, list[int]]:
    """The workloads within the context length, and the prompt lengths that are not."""
    positions = context_length(dense.json("config.json"))
    fitting = profile if positions is None else profile.within(positions)
    if not fitting.workloads:
        what = f"its context length {positions} holds none of the workloads"
        raise BundleError(dense.path, what, "bench another model")
    return fitting, sorted({w.prompt for w in profile.workloads} - {w.prompt for w in fitting.workloads})


def _bandwidth(provider: Provider, threads: int) -> list[float]:
    """A probe of the memory that the weights are read from; none of a plugin's device, which no graph of ours reaches
    without copies."""
    if provider.processor != "cpu":
        return [] if provider.plugged else [device_bandwidth(provider)]
    return [read_bandwidth(threads, cache_bytes=last_level_cache_bytes() or 0)]
