"""The paired run with workers that have no model: a slower one is seen, equals are not told apart, death is named."""

from __future__ import annotations

import dataclasses
import os
import statistics
import sys
import time
from pathlib import Path

import pytest

from foldrank.benchmarks.child import Child
from foldrank.benchmarks.document import pair_ratio
from foldrank.benchmarks.paired import NULL, SPEED, WARM_TOKENS, Pairs, Series, Setup, _contests, duel
from foldrank.benchmarks.schedule import ONE, Turns
from foldrank.benchmarks.statistics import Estimate, estimate
from foldrank.benchmarks.workload import Workload
from foldrank.errors import ProviderUnavailable, SourceError
from foldrank.progress import SILENT
from foldrank.runtime.providers.provider import Provider

SCRIPT = Path(__file__).with_name("fake_worker.py")
SETUP = Setup(Provider("cpu"), threads=1, vocabulary=10, seed=0)
WORKLOAD = Workload(4, 1, 4)


def _child(name: str, seconds: float = 0.0, *seed: int, timeout_s: float = 30.0) -> Child:
    return Child(name, command=(sys.executable, str(SCRIPT), str(seconds), *map(str, seed)), timeout_s=timeout_s)


def _compare(dense_s: float, rival_s: float, *, noise: bool) -> Estimate:
    """Dense over rival, two launches of ten pairs; with `noise` the workers make up their times."""
    launches: list[Pairs] = []
    for launch in range(2):
        seeds = ((2 * launch,), (2 * launch + 1,)) if noise else ((), ())
        with _child("dense", dense_s, *seeds[0]) as dense, _child("rival", rival_s, *seeds[1]) as rival:
            launches.append(duel(dense, rival, WORKLOAD, SETUP, 10))
    return estimate([[a["tpot_s"] / b["tpot_s"] for a, b in pairs] for pairs in launches], seed=0)


def test_a_rival_slower_by_five_per_cent_is_seen() -> None:
    found = _compare(0.100, 0.105, noise=True)
    assert found.high < 1.0
    assert found.contains(1 / 1.05)


def test_two_equal_workers_are_not_told_apart() -> None:
    found = _compare(0.100, 0.100, noise=True)
    assert found.contains(1.0)
    assert found.high - found.low < 0.04


@pytest.mark.parametrize("turns", [ONE, Turns(2, unheard=1)])
@pytest.mark.parametrize(("rival_s", "slower"), [(0.100, False), (0.105, True)])
def test_turns_of_tokens_tell_the_same(rival_s: float, slower: bool, turns: Turns) -> None:
    launches: list[list[float]] = []
    for launch in range(2):
        with _child("dense", 0.100, 2 * launch) as dense, _child("rival", rival_s, 2 * launch + 1) as rival:
            pairs = duel(dense, rival, Workload(4, 1, 7), dataclasses.replace(SETUP, turns=turns), 10)
        assert all(len(side["steps_s"]) == (6 if turns == ONE else 3) for pair in pairs for side in pair)
        launches.append([pair_ratio(ours, theirs, "decode") for ours, theirs in pairs])
    found = estimate(launches, seed=0)
    assert found.contains(0.100 / rival_s)
    assert (found.high < 1.0) == slower


class Counting:
    """A worker on a machine that grows slower with every call of anyone."""

    calls = 0
    log: list[str] = []  # noqa: RUF012 - one log for both, emptied by the test

    def __init__(self, name: str, seconds: float) -> None:
        self.name, self.seconds = name, seconds

    def ask(self, do: str, count: int = 1, **asked: object) -> dict[str, object]:
        self.log.append(f"{do} {self.name}")
        assert do != "sample" or asked["tokens"] == WARM_TOKENS
        found = []
        for _step in range(count):
            Counting.calls += 1
            found.append(self.seconds * (1 + 0.01 * Counting.calls))
        return {"prepare_s": 0.0, "ttft_s": found[0], "steps_s": found}


def test_turns_of_a_token_cancel_a_drift_that_whole_samples_would_show() -> None:
    dense, rival = Counting("a", 1.0), Counting("b", 1.25)
    Counting.log.clear()
    setup = dataclasses.replace(SETUP, turns=ONE)
    pairs = duel(dense, rival, Workload(4, 1, 5), setup, 2)  # type: ignore[arg-type]
    one = ["begin a", "begin b", *(f"steps {name}" for name in "abbaabba")]
    assert Counting.log[:10] == one
    assert Counting.log[10:12] == ["begin b", "begin a"]
    drift = Counting.calls * 0.01
    assert drift > 0.15
    for ours, theirs in pairs:
        assert pair_ratio(ours, theirs, "decode") == pytest.approx(0.8, rel=0.001)


def test_a_short_prompt_is_read_several_times_in_turns() -> None:
    dense, rival = Counting("a", 0.01), Counting("b", 0.0125)
    Counting.log.clear()
    ((ours, theirs),) = duel(
        dense, rival, Workload(4, 1, 2), dataclasses.replace(SETUP, turns=ONE), 1  # type: ignore[arg-type]
    )
    assert Counting.log[:16] == [f"begin {name}" for name in "abba" * 4]
    assert len(ours["ttfts_s"]) == len(theirs["ttfts_s"]) == 8
    assert ours["ttft_s"] == statistics.median(ours["ttfts_s"])
    assert pair_ratio(ours, theirs, "prefill") == pytest.approx(0.8, rel=0.001)


def test_the_contests_go_on_side_by_side_after_short_warm_ups() -> None:
    children = {"dense": Counting("d", 1.0), "compressed": Counting("c", 1.0), "dense again": Counting("a", 1.0)}
    Counting.log.clear()
    series = Series("genai")
    setup = dataclasses.replace(SETUP, turns=ONE)
    _contests(series, children, Workload(4, 1, 32), setup, 5, 4, "bench", SILENT)  # type: ignore[arg-type]
    assert Counting.log[:15] == [f"sample {name}" for name in "dca" * 5]
    begun = [entry[-1] for entry in Counting.log if entry.startswith("begin")]
    assert "".join(begun) == "dccddaad" * 2
    assert {key[0]: len(launches[0]) for key, launches in series.pairs.items()} == {SPEED: 4, NULL: 4}


def test_time_really_spent_shows() -> None:
    found = _compare(0.010, 0.020, noise=False)
    assert found.high < 0.8
    assert found.low > 0.3


def test_workers_ask_for_huge_pages() -> None:
    with Child("any", command=(sys.executable, "-c", _TELLS)) as child:
        assert child.ask("tell")["tunables"] == os.environ.get("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")


_TELLS = """
import json, os, sys
for line in sys.stdin:
    print(json.dumps({"tunables": os.environ["GLIBC_TUNABLES"]}), flush=True)
"""


def test_a_worker_that_ends_is_an_error_with_its_last_words() -> None:
    says = r"benchmark of small in genai.*exit code 1.*disk of memories"
    with pytest.raises(SourceError, match=says), _child("small in genai") as child:
        child.ask("die")


def test_a_killed_worker_hints_at_memory() -> None:
    with pytest.raises(SourceError, match=r"SIGKILL \(out of memory\?\)"), _child("small") as child:
        child.ask("killed")


def test_a_silent_worker_is_given_up_and_ended() -> None:
    start = time.monotonic()
    with pytest.raises(SourceError, match="no answer in 0 s"), _child("small", timeout_s=0.3) as child:
        child.ask("hang")
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(("gone", "error"), [(True, ProviderUnavailable), (False, SourceError)])
def test_a_workers_reason_comes_out_as_our_error(gone: bool, error: type[Exception]) -> None:
    with pytest.raises(error, match="provider x: is gone; wait"), _child("small") as child:
        child.ask("fail", gone=gone)


def test_a_second_question_to_a_dead_worker_is_the_same_clear_error() -> None:
    with _child("small") as child:
        for _ in range(2):
            with pytest.raises(SourceError, match="ended with exit code 1"):
                child.ask("die")
