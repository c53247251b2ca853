"""What a layout may cost, and in what: numbers, bytes of the whole model, or time by a measured cost table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from foldrank.edits.storage import FewBits
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.solver.costs import Bytes, Costs, CostTable, Latencies, Numbers, total
from foldrank.plans.solver.layout import Layout, Shapes, numbers_stored

WIDTHS = {"fp32": 4, "fp16": 2, "bf16": 2}
"""Bytes of a float."""


class Asked(Protocol):
    """What of a method's settings tells the budget; exactly one of keep, bytes and speedup is there."""

    @property
    def keep(self) -> float | None: ...
    @property
    def bytes(self) -> int | None: ...
    @property
    def speedup(self) -> float | None: ...
    @property
    def cost_table(self) -> str | None: ...
    @property
    def dtype(self) -> str: ...


@dataclass(frozen=True)
class Budget:
    """What a layout may cost. `times`: the cost table, where one was given."""

    costs: Costs
    limit: float
    times: Latencies | None

    def allowed(self, shape: tuple[int, int], rank: int) -> bool:
        """Whether a pair may stand there: not where it is measured to be slower than the dense site."""
        return self.times is None or self.times.site(shape, rank) < self.times.site(shape, None)


def budget_of(
    decoder: Decoder, asked: Asked, layout: Layout, shapes: Shapes, storages: Mapping[int, FewBits], outside: int
) -> Budget:
    """The budget that is asked for. `storages`: ways of storing a site in few bits; `outside`: bytes of what is not in
    the blocks. Raises ValueError where that alone exceeds `bytes`, PlanFormatError on a bad cost table."""
    times = None
    if asked.cost_table is not None:
        times = Latencies.of(CostTable.read(Path(asked.cost_table)), shapes)
    if asked.speedup is not None:
        assert times is not None
        times.check_bits(storages)
        return Budget(times, total(layout, shapes, times) / asked.speedup, times)
    beside = decoder.blocks[0].parameters - decoder.blocks[0].site_parameters
    if asked.keep is not None:
        return Budget(Numbers(), math.floor(asked.keep * numbers_stored(layout, shapes) + 1e-9), times)
    assert asked.bytes is not None
    limit = asked.bytes - outside
    if limit < 1:
        raise ValueError(f"auto: bytes={asked.bytes} are fewer than the {outside} that embeddings and final norm take")
    return Budget(Bytes(WIDTHS[asked.dtype], storages, beside), limit, times)
