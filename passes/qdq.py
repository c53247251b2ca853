"""Few bits as standard operators read them: DequantizeLinear by blocks along the inputs.

    numbers [in, out], scales [blocks, out], zero points ── DequantizeLinear ──┐
    x ──────────────────────────────────────────────────────────────────── MatMul

    numbers [words, width] ── Gather <── tokens ──> Gather ── scales [words, blocks]   (zero points alike)
                                └── DequantizeLinear ──┘

A table that a head reads too lies as the head reads it, and is turned before each Gather: runtimes turn what is
constant once, when they load, and ONNX Runtime makes MatMulNBits only of numbers that nothing else reads. Symmetric
numbers are signed, without zero points; others are unsigned. Source: ONNX, Operators.md, DequantizeLinear (21).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from foldrank.digests import cast
from foldrank.edits.storage import FewBits
from foldrank.graph.linear.weights import Array, lazily
from foldrank.passes.making import Maker
from foldrank.passes.numbers import Part
from foldrank.passes.opset import raise_opset

OPSET = 21
"""Since when DequantizeLinear knows blocks and 4 bits."""
_TYPES = {(4, True): ir.DataType.INT4, (4, False): ir.DataType.UINT4,
          (8, True): ir.DataType.INT8, (8, False): ir.DataType.UINT8}
"""By bits, and whether symmetric."""
Values = Sequence[ir.Value]


def admit(model: ir.Model) -> None:
    """Raise the model's opset where it is older. Raises PassRefused."""
    raise_opset(model, OPSET, "DequantizeLinear by blocks", "plan with form=nbits, or export with --exporter genai")


def tensors(
    part: Part, storage: FewBits, shape: tuple[int, int], dtype: ir.DataType, *, by_rows: bool = False
) -> list[ir.LazyTensor]:
    """Numbers [in, out], scales and, where not symmetric, zero points [blocks, out]; turned where `by_rows`."""
    (n_in, n_out), kind, bits = shape, _TYPES[storage.bits, storage.symmetric], storage.bits
    blocks = -(-n_in // storage.block_size)

    def numbers() -> Array:
        rows_OI = unpacked(part(0), bits)[:, :n_in]
        found = rows_OI.astype(np.int16) - 2 ** (bits - 1) if storage.symmetric else rows_OI
        return laid(found.astype(kind.numpy()))

    def laid(found_OX: Array) -> Array:
        return np.ascontiguousarray(found_OX if by_rows else found_OX.T)

    wanted = ((n_out, n_in), (n_out, blocks)) if by_rows else ((n_in, n_out), (blocks, n_out))
    found = [lazily(numbers, kind, wanted[0]), lazily(lambda: laid(cast(part(1), dtype.numpy())), dtype, wanted[1])]
    if not storage.symmetric:
        zeros = lazily(lambda: laid(unpacked(part(2), bits)[:, :blocks].astype(kind.numpy())), kind, wanted[1])
        found.append(zeros)
    return found


def unpacked(packed: Array, bits: int) -> Array:
    """Rows of bytes as rows of numbers, the lowest bits first. uint8."""
    rows = packed.reshape(len(packed), -1)
    if bits == 8:
        return rows
    return np.stack([rows & np.uint8(15), rows >> np.uint8(4)], axis=-1).reshape(len(rows), -1)


def product(
    maker: Maker, old: ir.Node, shape: tuple[int, int], stored: Values, storage: FewBits, marks: Mapping[str, str]
) -> ir.Node:
    """x @ W."""
    suffix = f"_Q{storage.bits}"
    weight = maker.before(old, "DequantizeLinear", stored, f"{suffix}/DequantizeLinear", _floats(stored), shape,
                          {"axis": 0, "block_size": storage.block_size})
    return maker.in_place(old, "", "MatMul", [old.inputs[0], weight], suffix, marks)


def rows(
    maker: Maker, old: ir.Node, shape: tuple[int, int], stored: Values, storage: FewBits, marks: Mapping[str, str],
    *, shared: bool,
) -> ir.Node:
    """Rows of a table [width, words]. `shared`: it lies as a head reads it."""
    suffix, tokens = f"_Q{storage.bits}", old.inputs[1]
    gathered: list[ir.Value] = []
    for value, name in zip(stored, ("numbers", "scales", "zero_points"), strict=False):
        assert value.dtype is not None
        table, where = value, f"{suffix}/{name}"
        if shared:
            turned = [shape[1], int(value.shape[0])] if value.shape is not None else None
            table = maker.before(old, "Transpose", [value], f"{where}/Transpose", value.dtype, turned, {"perm": (1, 0)})
        whole = tokens.shape if tokens is not None else None
        dims = None if whole is None or table.shape is None else [*whole.dims, table.shape[1]]
        gathered.append(maker.before(old, "Gather", [table, tokens], where, value.dtype, dims, {"axis": 0}))
    return maker.in_place(old, "", "DequantizeLinear", gathered, suffix, marks,
                          {"axis": -1, "block_size": storage.block_size})


def _floats(stored: Values) -> ir.DataType:
    dtype = stored[1].dtype
    assert dtype is not None
    return dtype
