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
    """What of a method's settings tells the budget; exactly one of keep, bytes, speedup and of_int4 is there."""

    @property
    def keep(self) -> float | None: ...
    @property
    def bytes(self) -> int | None: ...
    @property
    def speedup(self) -> float | None: ...
    @property
    def of_int4(self) -> float | None: ...
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
    if times is not None and (asked.speedup or asked.of_int4):
        times.check_bits(storages)
        whole = total(layout, shapes, times)
        if asked.of_int4:
            whole = min(whole, _in_four_bits(layout, shapes, times))  # small products may be slower so
        return Budget(times, whole * (asked.of_int4 or 1) / (asked.speedup or 1), times)
    beside = decoder.blocks[0].parameters - decoder.blocks[0].site_parameters
    if asked.keep is not None:
        return Budget(Numbers(), math.floor(asked.keep * numbers_stored(layout, shapes) + 1e-9), times)
    costs = Bytes(WIDTHS[asked.dtype], storages, beside)
    limit = asked.bytes
    if asked.of_int4 is not None:
        limit = math.floor(asked.of_int4 * (outside + _in_four_bits(layout, shapes, costs)))
    assert limit is not None
    if limit <= outside:
        raise ValueError(f"auto: bytes={limit} are fewer than the {outside} that embeddings and final norm take")
    return Budget(costs, limit - outside, times)


def _in_four_bits(layout: Layout, shapes: Shapes, costs: Costs) -> float:
    """Cost of the layout with every site so."""
    return total(tuple(span.with_bits(dict.fromkeys(shapes, 4)) for span in layout), shapes, costs)
