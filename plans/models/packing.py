"""Numbers, scales and zero points as MatMulNBits reads them (ONNX Runtime, docs/ContribOperators.md).

Of a column the numbers of a block lie together, the first in the lowest bits. Axes: O outputs, G blocks, B bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from foldrank.edits.storage import FewBits, Numbers
from foldrank.plans.models.rounding import FewNumbers, Grid

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class Packed(NamedTuple):
    """Numbers [O, G, B], scales [O, G] float32, zero points [O, bytes of G numbers], or None where symmetric."""

    numbers: Bytes
    scales: np.ndarray[Any, np.dtype[np.float32]]
    zeros: Bytes | None


def packed(found: FewNumbers) -> Packed:
    """What is stored. A last block that is not full is filled with what stands for 0."""
    grid, storage = found.grid, found.grid.storage
    rows, columns = found.numbers_IO.shape
    count, size = len(grid.scales_GO), storage.block_size
    filled = grid.zeros_GO.to(torch.uint8).repeat_interleave(size, dim=0)
    filled[:rows] = found.numbers_IO
    numbers = _bytes(filled.T.reshape(columns, count, size), storage.bits)
    zeros = None if storage.symmetric else _bytes(grid.zeros_GO.T.to(torch.uint8), storage.bits)
    return Packed(numbers, np.ascontiguousarray(grid.scales_GO.T.float().cpu().numpy()), zeros)


def held_in(arrays: Mapping[str, np.ndarray[Any, Any]], numbers: Numbers) -> Packed:
    """What a plan's arrays hold under these names."""
    zeros = None if numbers.zeros is None else arrays[numbers.zeros]
    return Packed(arrays[numbers.numbers], arrays[numbers.scales], zeros)


def unpacked(held: Packed, storage: FewBits, rows: int) -> FewNumbers:
    """The matrix [rows, O] that is stored so."""
    columns, count = held.scales.shape
    numbers = _levels(held.numbers, storage.bits).reshape(columns, -1)[:, :rows].T.contiguous()
    if held.zeros is None:
        zeros = torch.full((count, columns), 2.0 ** (storage.bits - 1))
    else:
        zeros = _levels(held.zeros, storage.bits)[:, :count].T.float()
    scales = torch.from_numpy(np.array(held.scales, dtype=np.float32)).T
    return FewNumbers(numbers, Grid(scales.contiguous(), zeros.contiguous(), storage))


def _bytes(levels: Tensor, bits: int) -> Bytes:
    """Levels on the last axis, in bytes."""
    each = 8 // bits
    full = torch.nn.functional.pad(levels, (0, -levels.shape[-1] % each))
    found = full[..., ::each].clone()
    for place in range(1, each):
        found |= full[..., place::each] << bits * place
    return np.ascontiguousarray(found.cpu().numpy())


def _levels(held: Bytes, bits: int) -> Tensor:
    """The reverse, with what fills the last byte."""
    found = torch.from_numpy(np.array(held))
    parts = [found >> shift & (1 << bits) - 1 for shift in range(0, 8, bits)]
    return torch.stack(parts, dim=-1).flatten(-2)
