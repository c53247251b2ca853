"""Weights rounded to few bits, block by block along their input axis, as ONNX Runtime's own quantizer rounds them.

The formula of MLAS (ONNX Runtime, core/mlas/lib/q4_dq.cpp), in float32 as there: per block of values v of one column,
symmetric   s = m / -2^(bits-1), m the value of largest magnitude; zero is 2^(bits-1)
else        s = (max(v, 0) - min(v, 0)) / (2^bits - 1); zero is -min / s, rounded
q = v / s + zero, rounded half away from zero, within 0 .. 2^bits - 1; the value stored is (q - zero) s.
Planning and the reference use it; graphs are written by ONNX Runtime's quantizer, and a test compares the two.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from foldrank.edits.storage import FewBits

NAMES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def rounded(weight_IO: Tensor, storage: FewBits, stored: torch.dtype = torch.float32) -> Tensor:
    """W [in, out] as a graph that stores floats as `stored` holds it: rounded to that, then to blocks of few bits
    whose scales are `stored` too. Float32."""
    rows, columns = weight_IO.shape
    given = weight_IO.to(stored).to(torch.float32)
    blocks_BSO = functional.pad(given, (0, 0, 0, -rows % storage.block_size)).reshape(-1, storage.block_size, columns)
    scale_BO, zero_BO = _range(blocks_BSO, storage)
    inverse_BO = torch.where(scale_BO != 0, 1 / scale_BO, torch.zeros_like(scale_BO))
    steps = blocks_BSO * inverse_BO[:, None] + zero_BO[:, None]
    steps = _half_away(steps).clamp(0, 2**storage.bits - 1) - zero_BO[:, None]
    return (steps * scale_BO.to(stored).to(torch.float32)[:, None]).reshape(-1, columns)[:rows]


def _range(blocks_BSO: Tensor, storage: FewBits) -> tuple[Tensor, Tensor]:
    """Scale and zero [blocks, out]."""
    low, high = blocks_BSO.amin(1), blocks_BSO.amax(1)
    half, top = 2 ** (storage.bits - 1), 2**storage.bits - 1
    if storage.symmetric:
        scale = torch.where(high.abs() > low.abs(), high, low) / -half
        return scale, torch.full_like(scale, half)
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = (high - low) / top
    zero = torch.where(scale != 0, -low / scale, torch.zeros_like(scale))
    return scale, _half_away(zero).clamp(0, top)


def _half_away(values: Tensor) -> Tensor:
    return (values + torch.copysign(torch.full_like(values, 0.5), values)).trunc()
