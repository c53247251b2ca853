"""SLM's loop and its threshold search, on similarities that are tables; no model takes part."""

from __future__ import annotations

import random

import pytest

from foldrank.plans.depth.prefix import AT_ONCE, Bounding
from foldrank.plans.depth.windows import Bounds, Memo, Window, merge_windows, search_threshold
from foldrank.plans.shelf import Figures, MemoryShelf


def constant(value: float):  # type: ignore[no-untyped-def]
    return lambda _committed, _candidate, _above: value


def arbitrary(seed: int):  # type: ignore[no-untyped-def]
    """A similarity that is any number at all, but always the same for the same question."""
    return lambda committed, candidate, _above=0.0: random.Random(f"{seed}{committed}{candidate}").uniform(-1, 1)


def test_a_window_that_passes_to_the_lowest_block_is_committed() -> None:
    outcome = merge_windows(constant(1.0), Bounds(1, 6), threshold=0.5)
    assert outcome.windows == ((1, 6),)
    assert outcome.removed == 5


def test_threshold_one_merges_nothing_and_asks_once_a_pair() -> None:
    outcome = merge_windows(constant(1.0), Bounds(0, 4), threshold=1.0)
    assert outcome.windows == ()
    assert [t.window for t in outcome.trials] == [(3, 4), (2, 3), (1, 2), (0, 1)]


def test_the_block_that_fails_becomes_the_next_top() -> None:
    passes = {(4, 5), (3, 5), (1, 2)}
    asked: list[Window] = []

    def similarity(_committed: tuple[Window, ...], candidate: Window, _above: float) -> float:
        asked.append(candidate)
        return 0.9 if candidate in passes else 0.1

    outcome = merge_windows(similarity, Bounds(0, 5), threshold=0.5)
    assert asked == [(4, 5), (3, 5), (2, 5), (1, 2), (0, 2)]
    assert outcome.windows == ((3, 5), (1, 2))


@pytest.mark.parametrize(("protected", "breaks", "runs"), [
    (set(), {3}, ((3, 4, 5), (0, 1, 2))), (set(), {1, 5}, ((1, 2, 3, 4),)), ({2}, {3, 4}, ((4, 5), (0, 1))),
    ({4}, {4, 5}, ((0, 1, 2, 3),)), (set(), {1, 2, 3, 4, 5}, ()), (set(), {0, 6}, ((0, 1, 2, 3, 4, 5),)),
])
def test_runs_end_at_protected_blocks_and_where_another_kind_begins(
    protected: set[int], breaks: set[int], runs: tuple[tuple[int, ...], ...]
) -> None:
    assert Bounds(0, 5, frozenset(protected), frozenset(breaks)).runs == runs


@pytest.mark.parametrize("seed", range(40))
def test_windows_are_disjoint_descending_within_bounds_and_never_single(seed: int) -> None:
    outcome = merge_windows(arbitrary(seed), Bounds(2, 11), threshold=-0.2)
    previous = 12
    for low, high in outcome.windows:
        assert 2 <= low < high < previous
        previous = low
    assert all(t.window[0] < t.window[1] for t in outcome.trials)
    assert outcome.removed == sum(high - low for low, high in outcome.windows)


@pytest.mark.parametrize("seed", range(25))
def test_search_finds_what_trying_every_threshold_finds(seed: int) -> None:
    """Oracle: every similarity there is, and just under it, as a threshold; highest first."""
    blocks, lowest, highest = 8, 1, 6
    memo = Memo(arbitrary(seed))
    everything: dict[float, int] = {}
    pending = [1.0]
    while pending:
        threshold = pending.pop()
        if threshold not in everything:
            outcome = merge_windows(memo, Bounds(lowest, highest), threshold=threshold)
            everything[threshold] = blocks - outcome.removed
            pending += [t.similarity - 1e-12 for t in outcome.trials] + [t.similarity for t in outcome.trials]
    for target in range(3, 8):
        found = search_threshold(Memo(arbitrary(seed)), Bounds(lowest, highest), blocks=blocks, target=target)
        under = [count for count in everything.values() if count <= target]
        assert found.outcome is not None
        assert blocks - found.outcome.removed == max(under)
        again = merge_windows(memo, Bounds(lowest, highest), threshold=found.threshold)
        assert again.windows == found.outcome.windows


def test_search_that_reaches_nothing_says_what_it_saw() -> None:
    found = search_threshold(constant(0.3), Bounds(1, 2), blocks=4, target=2)
    assert found.outcome is None
    assert found.reachable == (3, 4)


def test_memo_asks_once_for_each_state() -> None:
    asked = []
    memo = Memo(lambda committed, candidate: asked.append((committed, candidate)) or 0.5)  # type: ignore[func-returns-value]
    for committed in ((), ((4, 5),)):
        memo(committed, (1, 2))
        memo(committed, (1, 2))
    assert len(asked) == 2


def test_a_hopeless_candidate_is_not_measured_to_its_end() -> None:
    class Cache:
        final = range(3 * AT_ONCE)

        def summed(self, _committed: tuple[Window, ...], _candidate: Window, samples: slice) -> float:
            return 0.25 * len(range(*samples.indices(len(self.final))))

    run: list[int] = []
    similarity = Bounding(Cache(), Figures(MemoryShelf(), "figures"), lambda: run.append(1))  # type: ignore[arg-type]
    assert similarity((), (1, 2), 0.8) == pytest.approx(0.75)
    assert len(run) == 1
    assert similarity((), (1, 2), 0.1) == 0.25
    assert len(run) == 3
