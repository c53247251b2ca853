"""The paired run: two bundles, and the dense one against itself, taking turns in processes of their own.

Knows how to take samples. What they mean is said in `document.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

from foldrank.benchmarks.budget import Budget
from foldrank.benchmarks.child import Child
from foldrank.benchmarks.schedule import WHOLE, Turn, Turns, abba, shares, starting
from foldrank.benchmarks.workload import Profile, Workload
from foldrank.errors import ProviderUnavailable
from foldrank.progress import SILENT, Progress
from foldrank.runtime.providers.provider import Provider

SPEED, NULL = "speed", "null"
ENERGY_SECONDS = 3.0
"""How long each bundle decodes for its joules per token: counters tick slowly."""

WARM_TOKENS = 8
"""Tokens of a warm-up where turns are tokens: each of them is what is timed later."""

READINGS = 8
"""In a pair a prompt is read up to so many times, until the first contestant has spent `reading_s` seconds on it."""

_RIVAL = {SPEED: "compressed", NULL: "dense again"}
Sample = Mapping[str, Any]
"""`prepare_s`, `ttft_s`, `tpot_s`; where turns were tokens also `ttfts_s`, the seconds of each reading of the prompt,
and `steps_s`, those of each token that counts."""
Pairs = list[tuple[Sample, Sample]]


@dataclass(frozen=True)
class Setup:
    """What both bundles share: provider, threads, the tokens they read, how they take turns, and how many seconds of a
    turn go into reading a prompt."""

    provider: Provider
    threads: int
    vocabulary: int
    seed: int
    turns: Turns = WHOLE
    reading_s: float = 0.3


@dataclass
class Series:
    """Samples of one engine: per contest and workload a list of launches, each a list of pairs (dense, rival)."""

    engine: str
    pairs: dict[tuple[str, Workload], list[Pairs]] = field(default_factory=dict)
    opened: dict[str, dict[str, Any]] = field(default_factory=dict)
    peaks: dict[str, list[int | None]] = field(default_factory=dict)
    on_card: dict[str, list[int | None]] = field(default_factory=dict)
    energy: dict[str, dict[str, Any]] = field(default_factory=dict)


def run(
    dense: Path, compressed: Path, setup: Setup, profile: Profile, progress: Progress = SILENT,
    budget: Budget | None = None,
) -> tuple[list[Series], dict[str, str]]:
    """Measure every engine that is there, or as many as fit the budget, which notes what it leaves out. Gives their
    samples, and for the others the reason they are missing.

    Raises ProviderUnavailable where no engine is there, SourceError where a worker dies.
    """
    series: list[Series] = []
    missing: dict[str, str] = {}
    budget = budget or Budget()
    took_s = 0.0
    for engine in profile.engines:
        if series and not budget.engine(engine, took_s):
            continue
        began_s = budget.clock()
        try:
            series.append(_engine(engine, dense, compressed, setup, profile, progress, budget))
            took_s = budget.clock() - began_s
        except ProviderUnavailable as error:
            missing[engine] = f"{error.where}: {error.what}"
    if not series:
        where = f"bench on {setup.provider.short}"
        raise ProviderUnavailable(where, " | ".join(dict.fromkeys(missing.values())), "see `foldrank doctor`")
    return series, missing


def _engine(
    engine: str, dense: Path, compressed: Path, setup: Setup, profile: Profile, progress: Progress, budget: Budget
) -> Series:
    series, workloads = Series(engine), profile.workloads
    folders = {"dense": dense, "compressed": compressed, "dense again": dense}
    counts = shares(profile.pairs, profile.launches)
    stage = f"bench {engine}"
    progress.start(stage, 2 * sum(counts) * len(profile.workloads))
    try:
        for launch, count in enumerate(counts):
            with ExitStack() as stack:
                times_s = [budget.clock()]
                children = {
                    name: stack.enter_context(Child(f"{name} in {engine}")) for name in starting(folders, launch)
                }
                _open(series, children, folders, setup)
                times_s.append(budget.clock())
                _contests(series, children, workloads[0], setup, profile.warmups, count, stage, progress)
                times_s.append(budget.clock())
                if launch == 0:
                    opening_s, first_s = times_s[1] - times_s[0], times_s[2] - times_s[1]
                    workloads = tuple(budget.workloads(workloads, len(counts), opening_s=opening_s, first_s=first_s))
                    progress.advance(stage, 2 * sum(counts) * (len(profile.workloads) - len(workloads)))
                for workload in workloads[1:]:
                    _contests(series, children, workload, setup, profile.warmups, count, stage, progress)
                for name, child in children.items():
                    held = child.ask("memory")
                    series.peaks.setdefault(name, []).append(held["peak_rss_bytes"])
                    series.on_card.setdefault(name, []).append(held["gpu_bytes"])
                if launch == len(counts) - 1:
                    _energy(series, children, profile.workloads[0], setup)
    finally:
        progress.finish(stage)
    return series


def _open(series: Series, children: Mapping[str, Child], folders: Mapping[str, Path], setup: Setup) -> None:
    for name, child in children.items():
        series.opened[name] = opened(child, folders[name], series.engine, setup)


def opened(child: Child, folder: Path, engine: str, setup: Setup) -> dict[str, Any]:
    """Let a worker open a bundle in an engine. Gives what it tells of it. Raises ProviderUnavailable, SourceError."""
    return child.ask("open", folder=str(folder), engine=engine, provider=setup.provider.short,
                     options=dict(setup.provider.options), threads=setup.threads)


def warm(children: Iterable[Child], workload: Workload, setup: Setup, warmups: int) -> None:
    """Let all run a workload in turns, so many times; few tokens of it where a turn is no more than that."""
    children = list(children)
    if setup.turns != WHOLE:
        workload = replace(workload, tokens=min(workload.tokens, WARM_TOKENS))
    for _ in range(warmups):
        for child in children:
            take(child, workload, setup)


def _contests(
    series: Series, children: Mapping[str, Child], workload: Workload, setup: Setup, warmups: int, count: int,
    stage: str, progress: Progress,
) -> None:
    """Warm all up in turns; then dense against compressed and dense against dense, two pairs of each, A B B A, over and
    over: nobody waits so long that another has warmed the machine for it."""
    warm(children.values(), workload, setup, warmups)
    taken: dict[str, Pairs] = {contest: [] for contest in _RIVAL}
    for _ in range(count // 2):
        for contest, rival in _RIVAL.items():
            taken[contest] += duel(children["dense"], children[rival], workload, setup, 2, stage, progress)
    for contest, pairs in taken.items():
        series.pairs.setdefault((contest, workload), []).append(pairs)


def _energy(series: Series, children: Mapping[str, Child], workload: Workload, setup: Setup) -> None:
    """Joules per token of the first workload, dense and compressed one after the other."""
    for name in ("dense", "compressed"):
        series.energy[name] = children[name].ask("energy", **_asked(workload, setup), seconds=ENERGY_SECONDS)


def duel(
    dense: Child, rival: Child, workload: Workload, setup: Setup, count: int, stage: str = "bench",
    progress: Progress = SILENT,
) -> Pairs:
    """`count` pairs of samples (dense, rival), taken in A B B A order."""
    rivals: dict[Turn, Child] = {"a": dense, "b": rival}
    pairs: Pairs = []
    for order in abba(count):
        if setup.turns == WHOLE:
            taken = {turn: take(rivals[turn], workload, setup) for turn in order}
        else:
            taken = _in_tokens(rivals, order, workload, setup)
        pairs.append((taken["a"], taken["b"]))
        progress.advance(stage)
    return pairs


def _in_tokens(
    rivals: Mapping[Turn, Child], order: Sequence[Turn], workload: Workload, setup: Setup
) -> dict[Turn, Sample]:
    """A sample of each, a few tokens a turn once both prompts are read."""
    begun = _read(rivals, order, workload, setup)
    steps: dict[Turn, list[float]] = {turn: [] for turn in order}
    for number, size in enumerate(setup.turns.split(workload.tokens - 1)):
        for turn in order if number % 2 == 0 else order[::-1]:
            steps[turn] += rivals[turn].ask("steps", count=size)["steps_s"][setup.turns.unheard:]
    return {turn: {**begun[turn], "steps_s": steps[turn], "tpot_s": fmean(steps[turn])} for turn in order}


def _read(
    rivals: Mapping[Turn, Child], order: Sequence[Turn], workload: Workload, setup: Setup
) -> dict[Turn, Sample]:
    """Both read the prompt in turns, several times where that is quick: one short reading is mostly noise."""
    begun: dict[Turn, list[Sample]] = {turn: [] for turn in order}
    while len(first := begun[order[0]]) < READINGS and sum(sample["ttft_s"] for sample in first) < setup.reading_s:
        for turn in order if len(first) % 2 == 0 else order[::-1]:
            begun[turn].append(rivals[turn].ask("begin", **_asked(workload, setup)))
    read = {turn: [sample["ttft_s"] for sample in taken] for turn, taken in begun.items()}
    return {turn: {**begun[turn][-1], "ttft_s": median(read[turn]), "ttfts_s": read[turn]} for turn in order}


def take(child: Child, workload: Workload, setup: Setup) -> Sample:
    """One sample of one worker."""
    return child.ask("sample", **_asked(workload, setup))


def _asked(workload: Workload, setup: Setup) -> dict[str, int]:
    return {"prompt": workload.prompt, "batch": workload.batch, "tokens": workload.tokens,
            "vocabulary": setup.vocabulary, "seed": setup.seed}
