"""Turns and shares."""

from __future__ import annotations

import pytest

from foldrank.benchmarks.schedule import FEW, ONE, WHOLE, abba, shares
from foldrank.benchmarks.workload import FULL, QUICK, Profile, Workload


def test_order_is_a_b_b_a() -> None:
    assert "".join("".join(pair) for pair in abba(4)) == "abbaabba"


def test_linear_drift_cancels_over_two_pairs() -> None:
    clock = iter(range(100))
    times: dict[str, list[int]] = {"a": [], "b": []}
    for order in abba(6):
        for turn in order:
            times[turn].append(next(clock))
    assert sum(times["a"]) == sum(times["b"])


@pytest.mark.parametrize(("pairs", "launches"), [(20, 1), (20, 3), (24, 4), (21, 2)])
def test_launches_share_at_least_the_pairs_in_whole_turns(pairs: int, launches: int) -> None:
    found = shares(pairs, launches)
    assert len(found) == launches
    assert sum(found) >= pairs
    assert all(count % 2 == 0 for count in found)


def test_no_pairs_and_no_launches_are_refused() -> None:
    with pytest.raises(ValueError, match="0 pairs"):
        list(abba(0))
    with pytest.raises(ValueError, match="0 launches"):
        shares(20, 0)


@pytest.mark.parametrize("wrong", [{"pairs": 19}, {"warmups": 4}])
def test_a_profile_that_proves_nothing_cannot_be_made(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="prove nothing"):
        Profile("hasty", (Workload(16, 1, 4),), **wrong)


def test_profiles_measure_what_they_promise() -> None:
    assert {w.batch for w in QUICK.workloads} == {1}
    assert {(w.prompt, w.batch) for w in FULL.workloads} == {(p, b) for p in (16, 128, 512) for b in (1, 4)}
    assert {w.prompt for w in FULL.within(256).workloads} == {16, 128}


def test_mean_context_is_that_of_the_tokens_after_the_first() -> None:
    workload = Workload(prompt=10, batch=1, tokens=4)  # the first token comes with the prompt, three follow
    assert workload.context == (11 + 12 + 13) / 3
    assert workload.capacity == 14


def test_prompts_are_reproducible_and_within_the_vocabulary() -> None:
    prompts = Workload(8, 3, 2).prompts(50, seed=1)
    assert prompts.shape == (3, 8)
    assert 0 <= prompts.min() <= prompts.max() < 50
    assert (prompts == Workload(8, 3, 2).prompts(50, seed=1)).all()


def test_a_sample_is_cut_into_turns_that_all_have_a_token_that_counts() -> None:
    assert ONE.split(3) == [1, 1, 1]
    assert FEW.split(15) == [3] * 5
    assert FEW.split(31) == [3] * 10  # the last token would only bring the weights back
    assert FEW.split(8) == [3, 3, 2]


def test_turns_say_what_they_are() -> None:
    assert [str(turns) for turns in (WHOLE, ONE, FEW)] == [
        "a whole sample", "1 token", "3 tokens, the first 1 not counted"]
