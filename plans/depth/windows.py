"""SLM's window search: which neighbouring blocks merge. Knows numbers and a similarity to ask for; no tensors.

The loop is the released one (arXiv 2502.19159) with its two faults mended: a window that still passes at the lowest
allowed block is committed, and windows of one block are never evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

Window = tuple[int, int]
"""Lowest and highest block of a merge, both included; at least two blocks."""


class Similarity(Protocol):
    """Similarity of the original to the model with the committed windows and the candidate merged.

    Where it is not above `above`, any bound that it does not exceed and that is not above either may be told instead:
    a hopeless candidate need not be measured to its end.
    """

    def __call__(self, committed: tuple[Window, ...], candidate: Window, above: float, /) -> float: ...


@dataclass(frozen=True)
class Trial:
    """One candidate as it was judged beside what was `committed`; where it was not accepted `similarity` is a bound."""

    window: Window
    similarity: float
    accepted: bool
    committed: tuple[Window, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """Where a threshold leads: the windows, topmost first, and every trial in order."""

    windows: tuple[Window, ...]
    trials: tuple[Trial, ...]

    @property
    def removed(self) -> int:
        """Blocks that leave."""
        return sum(high - low for low, high in self.windows)

    @property
    def reasons(self) -> dict[Window, float]:
        """Similarity at which each committed window was last accepted."""
        return {t.window: t.similarity for t in self.trials if t.accepted and t.window in self.windows}


@dataclass(frozen=True)
class Bounds:
    """Where windows may lie: from `lowest` to `highest`, over no protected block, and not from below one of `breaks` to
    it: there another kind of block begins."""

    lowest: int
    highest: int
    protected: frozenset[int] = frozenset()
    breaks: frozenset[int] = frozenset()

    @property
    def runs(self) -> tuple[tuple[int, ...], ...]:
        """The longest runs of neighbours that may merge, topmost first; blocks that stay alone are left out."""
        runs: list[tuple[int, ...]] = [()]
        for block in range(self.lowest, self.highest + 1):
            if block in self.protected:
                runs.append(())
            elif block in self.breaks:
                runs.append((block,))
            else:
                runs[-1] = (*runs[-1], block)
        return tuple(run for run in reversed(runs) if len(run) > 1)


def merge_windows(similarity: Similarity, bounds: Bounds, *, threshold: float) -> Outcome:
    """Grow windows downward from the top of each run while similarity stays above the threshold.

    A window that stops growing is committed and the block that failed becomes the next top; a block that cannot even
    merge with its lower neighbour is passed over. Cost: at most one evaluation per pair of neighbours and window.
    """
    committed: list[Window] = []
    trials: list[Trial] = []
    for run in bounds.runs:
        lowest, high = run[0], run[-1]
        while high > lowest:
            low = high
            while low > lowest:
                candidate = (low - 1, high)
                value = similarity(tuple(committed), candidate, threshold)
                trials.append(Trial(candidate, value, value > threshold, tuple(committed)))
                if value <= threshold:
                    break
                low -= 1
            if low < high:
                committed.append((low, high))
            high = low - 1
    return Outcome(tuple(committed), tuple(trials))


@dataclass
class Memo:
    """Similarities already known, by committed windows and candidate, each measured to its end: they do not depend on
    the threshold."""

    measure: Callable[[tuple[Window, ...], Window], float]
    known: dict[tuple[tuple[Window, ...], Window], float] = field(default_factory=dict)

    def __call__(self, committed: tuple[Window, ...], candidate: Window, _above: float = -math.inf, /) -> float:
        key = (committed, candidate)
        if key not in self.known:
            self.known[key] = self.measure(committed, candidate)
        return self.known[key]


@dataclass(frozen=True)
class Search:
    """What a search over thresholds found: the outcome at `threshold`, or None; the numbers of blocks left it saw."""

    threshold: float
    outcome: Outcome | None
    reachable: tuple[int, ...]


class Loop(Protocol):
    """A way from a threshold to windows, such as `merge_windows`."""

    def __call__(self, similarity: Similarity, bounds: Bounds, *, threshold: float) -> Outcome: ...


def search_threshold(
    similarity: Similarity, bounds: Bounds, *, blocks: int, target: int, loop: Loop = merge_windows
) -> Search:
    """The highest threshold that leaves `target` blocks, else the one that leaves most below it.

    Exact, and without assuming that more merging follows from a lower threshold: every decision stays as it is for all
    thresholds from the largest rejected similarity up to the smallest accepted one, so going just under the largest
    rejected one visits every distinct outcome once. Of the rejected only the largest needs its own value, the others a
    bound below it. Give a memoised similarity: outcomes share most of their trials.
    """
    best = Search(threshold=1.0, outcome=None, reachable=())
    most = -1
    reachable: set[int] = set()
    threshold = 1.0
    while True:
        outcome = loop(similarity, bounds, threshold=threshold)
        left = blocks - outcome.removed
        reachable.add(left)
        if most < left <= target:
            best, most = Search(threshold, outcome, ()), left
        rejected = [trial for trial in outcome.trials if not trial.accepted]
        if left == target or not rejected:
            return replace(best, reachable=tuple(sorted(reachable)))
        threshold = math.nextafter(_largest(similarity, rejected), -math.inf)


def _largest(similarity: Similarity, trials: Sequence[Trial]) -> float:
    """Of the similarities of trials that are known as bounds."""
    best = -math.inf
    for trial in sorted(trials, key=lambda trial: trial.similarity, reverse=True):
        if trial.similarity <= best:
            break
        best = max(best, similarity(trial.committed, trial.window, best))
    return best
