"""How much of a bench fits in the time that it is given: prompts and engines are left out whole, pairs never.

The first prompt in the first engine that is there is always measured, with all its pairs after all warm-ups in every
launch: fewer would give no interval to speak of.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from foldrank.benchmarks.workload import Workload


@dataclass
class Budget:
    """`seconds` for all engines together, None for no limit; `left_out`: what was, with the reason."""

    seconds: float | None = None
    clock: Callable[[], float] = time.monotonic
    left_out: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._began_s = self.clock()

    def workloads(
        self, asked: Sequence[Workload], launches: int, *, opening_s: float, first_s: float
    ) -> Sequence[Workload]:
        """Those that fit in an engine whose first launch took so long to open and for the first of them: each is taken
        to last as long as the first, in every launch."""
        if self.seconds is None:
            return asked
        spare_s = self._left_s() - (launches - 1) * (opening_s + first_s)
        more = min(len(asked) - 1, max(0, int(spare_s / max(launches * first_s, 1e-9))))
        for workload in asked[1 + more:]:
            self.left_out[f"prompt {workload.prompt:,}"] = self._reason()
        return asked[: 1 + more]

    def engine(self, name: str, last_s: float) -> bool:
        """Whether there is time for another engine, that takes as long as the last one did."""
        if self.seconds is None or last_s <= self._left_s():
            return True
        self.left_out[name] = self._reason()
        return False

    def _left_s(self) -> float:
        return (self.seconds or 0.0) - (self.clock() - self._began_s)

    def _reason(self) -> str:
        return f"no time was left of {self.seconds or 0.0:.0f} s; `foldrank bench` measures all"
