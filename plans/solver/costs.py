"""What a layout costs: numbers or bytes stored, or time measured on the target machine. Knows no tensors.

A cost table holds milliseconds of x @ W and of (x @ A) @ B by shape and rank, and of x @ W with some of an MLP's
channels, one decoded token at a time, as `foldrank bench --cost-table` measures them.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from foldrank import strictjson
from foldrank.edits.storage import FewBits
from foldrank.errors import PlanFormatError
from foldrank.plans.solver.layout import Layout, Shapes, Span, site_numbers

Shape = tuple[int, int]


class Costs(Protocol):
    """Cost of one site [in, out], dense (rank None) or as a pair, in floats (bits None) or in few bits."""

    def site(self, shape: Shape, rank: int | None, bits: int | None = None) -> float: ...

    def block(self) -> float:
        """What a block costs besides its sites."""


@dataclass(frozen=True)
class Numbers:
    """Numbers stored in sites."""

    def site(self, shape: Shape, rank: int | None, bits: int | None = None) -> float:
        """Of the pair, or of W; however they are stored."""
        return site_numbers(shape, rank)

    def block(self) -> float:
        """Norms and biases do not count."""
        return 0.0


@dataclass(frozen=True)
class Bytes:
    """Bytes stored, `width` for a float; in few bits as `storages` say by number of bits. `beside`: a block's numbers
    outside its sites, which stay floats."""

    width: int
    storages: Mapping[int, FewBits]
    beside: int = 0

    def site(self, shape: Shape, rank: int | None, bits: int | None = None) -> float:
        """Of the pair, or of W."""
        if bits is None:
            return self.width * site_numbers(shape, rank)
        storage = self.storages[bits]
        parts = [shape] if rank is None else [(shape[0], rank), (rank, shape[1])]
        return sum(stored_bytes(storage, part, self.width) for part in parts)

    def block(self) -> float:
        """Norms and biases."""
        return self.width * self.beside


def stored_bytes(storage: FewBits, shape: Shape, width: int) -> int:
    """Of a matrix [in, out] in few bits, with scales of so many bytes."""
    numbers, scales, zeros = map(math.prod, storage.layout(shape))
    return numbers + width * scales + (0 if storage.symmetric else zeros)


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Timing:
    """Milliseconds of one shape [in, out]: dense, and of a pair by rank."""

    shape: tuple[int, int]
    dense_ms: float
    pair_ms: dict[int, float]

    def __post_init__(self) -> None:
        if not self.pair_ms or self.dense_ms <= 0 or min(self.pair_ms.values()) <= 0:
            raise ValueError(f"times of {self.shape} must be above 0, with at least one rank")

    @property
    def pays_to(self) -> int:
        """The largest rank at which a pair is no slower than W; 0 where every pair is."""
        found = (r for r in range(max(self.pair_ms), 0, -1) if interpolated(self.pair_ms, r) <= self.dense_ms)
        return next(found, 0)


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Narrower:
    """Milliseconds of one product [in, out] of a narrower MLP."""

    shape: tuple[int, int]
    dense_ms: float

    def __post_init__(self) -> None:
        if self.dense_ms <= 0:
            raise ValueError(f"the time of {self.shape} must be above 0")


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Fewer:
    """Milliseconds of one product [in, out] by the bits its weight is stored in."""

    shape: tuple[int, int]
    ms: dict[int, float]

    def __post_init__(self) -> None:
        if not self.ms or min(self.ms.values()) <= 0:
            raise ValueError(f"times of {self.shape} in few bits must be above 0")


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class CostTable:
    """Times measured on one machine; `environment` says which. `narrower`, `fewer`: none in tables of earlier
    versions."""

    timings: tuple[Timing, ...]
    environment: dict[str, Any]
    narrower: tuple[Narrower, ...] = ()
    fewer: tuple[Fewer, ...] = ()
    schema: str = "foldrank.costs/1"

    @classmethod
    def read(cls, path: Path) -> CostTable:
        """Read and check a table. Raises PlanFormatError."""
        way_out = "measure it again with foldrank bench --cost-table"
        try:
            return _TABLE.validate_json(strictjson.dumps(strictjson.read(path)), strict=True)
        except (OSError, strictjson.JsonError) as error:
            raise PlanFormatError(path, str(error), way_out) from None
        except ValidationError as error:
            raise PlanFormatError(path, strictjson.reasons(error), way_out) from None

    def text(self) -> str:
        """Canonical JSON."""
        return strictjson.dumps(_TABLE.dump_python(self, mode="json"))


_TABLE: TypeAdapter[CostTable] = TypeAdapter(CostTable)


@dataclass(frozen=True)
class Latencies:
    """Milliseconds from a table; between ranks and widths measured on a straight line, below the smallest as that. In
    few bits a narrower product or a pair takes the share of its time that the whole product takes of its own."""

    timings: Mapping[Shape, Timing]
    dense: Mapping[Shape, float]
    fewer: Mapping[Shape, Mapping[int, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, table: CostTable, shapes: Shapes) -> Latencies:
        """Times of these sites. Raises ValueError where the table lacks a shape."""
        known = {timing.shape: timing for timing in table.timings}
        if missing := sorted({shape for shape in shapes.values() if shape not in known}):
            listed = ", ".join(f"{i}x{o}" for i, o in missing)
            raise ValueError(f"the cost table has no times of {listed}; measure this model with bench --cost-table")
        narrower = {held.shape: held.dense_ms for held in table.narrower}
        return cls(known, narrower | {timing.shape: timing.dense_ms for timing in table.timings},
                   {held.shape: held.ms for held in table.fewer})

    def check_bits(self, bits: Iterable[int]) -> None:
        """Raises ValueError where the table lacks times of a product in so many bits."""
        if missing := sorted({shape for shape in self.timings for number in bits
                              if number not in self.fewer.get(shape, {})}):
            listed = ", ".join(f"{i}x{o}" for i, o in missing)
            way_out = "measure it again with bench --cost-table"
            raise ValueError(f"the cost table has no times of {listed} in few bits; {way_out}")

    def site(self, shape: Shape, rank: int | None, bits: int | None = None) -> float:
        """Of x @ W, or of (x @ A) @ B at a rank."""
        if bits is not None:
            whole = shape if shape in self.fewer else self._like(shape)
            return self.site(shape, rank) * self.fewer[whole][bits] / self.dense[whole]
        if rank is not None:
            return interpolated(self.timings[shape].pair_ms, rank)
        return self.dense[shape] if shape in self.dense else self._between(shape)

    def _like(self, shape: Shape) -> Shape:
        """The product, timed in few bits, that this is a narrower one of: of as many rows or columns, the smallest."""
        return min((held for held in self.fewer if held[0] == shape[0] or held[1] == shape[1]), key=math.prod)

    def _between(self, shape: Shape) -> float:
        """Of a product that was not measured, by those with as many rows, or as many columns: the longer time."""
        rows, columns = shape
        lines = [({n: ms for (n, other), ms in self.dense.items() if other == columns}, rows),
                 ({n: ms for (other, n), ms in self.dense.items() if other == rows}, columns)]
        return max(interpolated(line, size) for line, size in lines if line and max(line) >= size)

    def block(self) -> float:
        """Not in the table: a block's norms and its attention are left out, so time won by folding is understated."""
        return 0.0


def interpolated(times: Mapping[int, float], rank: int) -> float:
    """Time at a rank, on a line between the neighbours measured; outside them that of the nearest."""
    ranks = sorted(times)
    above = bisect_left(ranks, rank)
    if above == 0:
        return times[ranks[0]]
    if above == len(ranks):
        return times[ranks[-1]] * rank / ranks[-1]
    low, high = ranks[above - 1], ranks[above]
    return times[low] + (times[high] - times[low]) * (rank - low) / (high - low)


def total(layout: Layout, shapes: Shapes, costs: Costs) -> float:
    """Cost of a layout."""
    return sum(of_span(span, shapes, costs) for span in layout)


def of_span(span: Span, shapes: Shapes, costs: Costs) -> float:
    """Cost of one block."""
    return costs.block() + sum(
        costs.site(shape, span.ranks.get(roles), span.bits.get(roles)) for roles, shape in span.shapes(shapes).items())
