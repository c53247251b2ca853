"""Few bits as standard operators read them: DequantizeLinear by blocks along the inputs, and arithmetic for rows.

    numbers [in, out], scales [blocks, out], zero points ── DequantizeLinear ──┐
    x ──────────────────────────────────────────────────────────────────── MatMul

    numbers [words, width] ── Gather ── Cast ── Reshape [.., blocks, block_size] ── Sub ── Mul ── Reshape [.., width]
    zero points [words, blocks] ── Gather ── Cast ── Reshape [.., blocks, 1] ────────┘      │
    scales [words, blocks] ── Gather ── Reshape [.., blocks, 1] ────────────────────────────┘

A table that a head reads too lies as the head reads it, and is turned before each Gather: runtimes turn what is
constant once, when they load, and ONNX Runtime makes MatMulNBits only of numbers that nothing else reads. Rows are not
given to DequantizeLinear, which OpenVINO takes of constants alone. Symmetric numbers are signed, without zero points;
others are unsigned. Source: ONNX, Operators.md, DequantizeLinear (21).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from foldrank.digests import cast
from foldrank.edits.storage import FewBits
from foldrank.graph.linear.weights import Array, add_initializer, lazily
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
    signed = np.uint8(2 ** (bits - 1) if storage.symmetric else 0)
    sizes = ((n_out, n_in), (n_out, blocks)) if by_rows else ((n_in, n_out), (blocks, n_out))

    def laid(found_OX: Array) -> Array:
        return np.ascontiguousarray(found_OX if by_rows else found_OX.T)

    def numbers() -> ir.TensorProtocol:
        return _held(laid(unpacked(part(0), bits)[:, :n_in]) ^ signed, kind)

    def zeros() -> ir.TensorProtocol:
        return _held(laid(unpacked(part(2), bits)[:, :blocks]), kind)

    found = [ir.LazyTensor(numbers, kind, ir.Shape(sizes[0])),
             lazily(lambda: laid(cast(part(1), dtype.numpy())), dtype, sizes[1])]
    return found if storage.symmetric else [*found, ir.LazyTensor(zeros, kind, ir.Shape(sizes[1]))]


def _held(numbers: Array, kind: ir.DataType) -> ir.TensorProtocol:
    """Numbers in their lowest bits, as two's complement has them where signed, two to a byte where they have four."""
    if kind.bitwidth == 8:
        return ir.Tensor(numbers.view(kind.numpy()), dtype=kind)
    flat = numbers.reshape(-1)
    packed = flat[::2].copy()
    packed[: len(flat) // 2] |= flat[1::2] << np.uint8(4)
    return ir.PackedTensor(packed, kind, shape=numbers.shape)


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
    (width, _), floats = shape, _floats(stored)
    suffix, blocks = f"_Q{storage.bits}", width // storage.block_size
    tokens = old.inputs[1]
    before = list(tokens.shape.dims) if tokens is not None and tokens.shape is not None else None

    def dims(*last: int) -> list[int | ir.SymbolicDim] | None:
        return None if before is None else [*before, *last]

    def laid(value: ir.Value, name: str, *last: int) -> tuple[ir.Value, ir.Value]:
        asked = add_initializer(maker.graph, f"{old.name}{name}/shape", ir.Tensor(np.array([0, 0, *last], np.int64)))
        return value, asked

    def gathered(value: ir.Value, name: str, *last: int) -> ir.Value:
        """Rows of floats, by blocks."""
        dtype, held = value.dtype, value.shape
        assert dtype is not None
        assert held is not None
        size = held.numpy()
        if shared:
            size = size[::-1]
            value = maker.before(old, "Transpose", [value], f"{name}/Transpose", dtype, size, {"perm": (1, 0)})
        found = maker.before(old, "Gather", [value, tokens], f"{name}/Gather", dtype, dims(size[1]), {"axis": 0})
        if dtype != floats:
            found = maker.before(old, "Cast", [found], f"{name}/Cast", floats, dims(size[1]), {"to": int(floats)})
        return maker.before(old, "Reshape", laid(found, name, *last), f"{name}/Reshape", floats, dims(*last))

    by_blocks = blocks, storage.block_size
    found = gathered(stored[0], f"{suffix}/numbers", *by_blocks)
    if not storage.symmetric:
        zeros = gathered(stored[2], f"{suffix}/zero_points", blocks, 1)
        found = maker.before(old, "Sub", [found, zeros], f"{suffix}/Sub", floats, dims(*by_blocks))
    scales = gathered(stored[1], f"{suffix}/scales", blocks, 1)
    found = maker.before(old, "Mul", [found, scales], f"{suffix}/Mul", floats, dims(*by_blocks))
    return maker.in_place(old, "", "Reshape", laid(found, suffix, width), suffix, marks)


def _floats(stored: Values) -> ir.DataType:
    dtype = stored[1].dtype
    assert dtype is not None
    return dtype
