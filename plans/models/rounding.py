"""Weights in few bits, block by block along their input axis: what MatMulNBits holds, and rounding to nearest as ONNX
Runtime's own quantizer rounds.

The formula of MLAS (ONNX Runtime, core/mlas/lib/q4_dq.cpp), in float32 as there: per block of values v of one column,
symmetric   s = m / -2^(bits-1), m the value of largest magnitude; zero is 2^(bits-1)
else        s = (max(v, 0) - min(v, 0)) / (2^bits - 1); zero is -min / s, rounded
q = v / s + zero, rounded half away from zero, within 0 .. 2^bits - 1; the value stored is (q - zero) s.
Graphs that a plan leaves to nearest are written by ONNX Runtime's quantizer, and a test compares the two.
Axes: I inputs, O outputs, G blocks of `block_size` inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from foldrank.edits.storage import FewBits

NAMES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Grid:
    """The values that numbers can say: scale and zero of every block [G, O]."""

    scales_GO: Tensor
    zeros_GO: Tensor
    storage: FewBits

    @classmethod
    def of(cls, weight_IO: Tensor, storage: FewBits) -> Grid:
        """MLAS's, of float32 values."""
        return cls(*_range(in_blocks(weight_IO, storage.block_size), storage), storage)

    @property
    def inverse_GO(self) -> Tensor:
        """1 / scale; 0 where the scale is."""
        return torch.where(self.scales_GO != 0, 1 / self.scales_GO, torch.zeros_like(self.scales_GO))

    def spread(self, values_GO: Tensor, rows: int) -> Tensor:
        """Of every block's value that of each of its rows [I, O]."""
        return values_GO.repeat_interleave(self.storage.block_size, dim=0)[:rows]

    def nearest(self, weight_IO: Tensor) -> FewNumbers:
        """Every value to the nearest number."""
        rows = len(weight_IO)
        levels = weight_IO * self.spread(self.inverse_GO, rows) + self.spread(self.zeros_GO, rows)
        return FewNumbers(numbered(levels, self.storage.bits), self)


@dataclass(frozen=True)
class FewNumbers:
    """A matrix in few bits: numbers [I, O], uint8, on their grid."""

    numbers_IO: Tensor
    grid: Grid

    @property
    def values(self) -> Tensor:
        """What is stored [I, O], float32."""
        grid, rows = self.grid, len(self.numbers_IO)
        steps = self.numbers_IO.to(torch.float32) - grid.spread(grid.zeros_GO, rows)
        return steps * grid.spread(grid.scales_GO, rows)

    def scaled(self, scales_GO: Tensor) -> FewNumbers:
        """The same numbers, with other scales."""
        return replace(self, grid=replace(self.grid, scales_GO=scales_GO))

    def to(self, device: torch.device) -> FewNumbers:
        """On a device."""
        grid = replace(self.grid, scales_GO=self.grid.scales_GO.to(device), zeros_GO=self.grid.zeros_GO.to(device))
        return FewNumbers(self.numbers_IO.to(device), grid)

    def columns(self, start: int, stop: int) -> FewNumbers:
        """Some of its columns."""
        grid = replace(self.grid, scales_GO=self.grid.scales_GO[:, start:stop],
                       zeros_GO=self.grid.zeros_GO[:, start:stop])
        return FewNumbers(self.numbers_IO[:, start:stop], grid)


def rounded(weight_IO: Tensor, storage: FewBits, stored: torch.dtype = torch.float32) -> Tensor:
    """W [in, out] as a graph that stores floats as `stored` holds it: rounded to that, then to the nearest of few bits
    whose scales are `stored` too. Float32."""
    given = weight_IO.to(stored).to(torch.float32)
    found = Grid.of(given, storage).nearest(given)
    return found.scaled(found.grid.scales_GO.to(stored).to(torch.float32)).values


def in_blocks(weight_IO: Tensor, block_size: int) -> Tensor:
    """[G, block_size, O], zeros behind the last row."""
    rows, columns = weight_IO.shape
    return functional.pad(weight_IO, (0, 0, 0, -rows % block_size)).reshape(-1, block_size, columns)


def numbered(values: Tensor, bits: int) -> Tensor:
    """To the nearest numbers of so many bits, halves up, uint8. Truncated by conversion: `trunc` starts threads for the
    smallest tensor, milliseconds where a core is busy."""
    return (values.clamp(0, 2**bits - 1) + 0.5).to(torch.uint8)


def _range(blocks_GSO: Tensor, storage: FewBits) -> tuple[Tensor, Tensor]:
    """Scale and zero [G, O]."""
    low, high = blocks_GSO.amin(1), blocks_GSO.amax(1)
    half, top = 2 ** (storage.bits - 1), 2**storage.bits - 1
    if storage.symmetric:
        scale = torch.where(high.abs() > low.abs(), high, low) / -half
        return scale, torch.full_like(scale, half)
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = (high - low) / top
    zero = torch.where(scale != 0, -low / scale, torch.zeros_like(scale))
    return scale, numbered(zero, storage.bits).to(torch.float32)
