"""Weights and biases times Q = D H D, a few columns or rows at a time, when a graph is written.

Knows nothing of graphs' nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from foldrank.digests import cast
from foldrank.edits.rotate_stream import RotateStream
from foldrank.graph.linear.weights import Array, lazily, read

_Change = Callable[[Array], None]
"""Of W [in, out], in place."""

_AT_ONCE = 256
"""Columns turned at once: more take memory, fewer take time."""


@dataclass(frozen=True)
class Turn:
    """Multiplies by Q: H x is the real part of x's Fourier transform, less the imaginary. float64, rounded once."""

    signs: Array

    @classmethod
    def of(cls, edit: RotateStream) -> Turn:
        """With the edit's signs."""
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(edit.signs), np.uint8))
        return cls(1.0 - 2.0 * bits[: edit.width])

    def rows(self, matrix: Array) -> Array:
        """Rows times Q, float64. Q is symmetric, so Q times columns is the same of what is turned."""
        found = np.fft.fft(matrix.astype(np.float64) * self.signs, axis=-1, norm="ortho")
        return np.asarray((found.real - found.imag) * self.signs)

    def matrix(self, dtype: ir.DataType) -> ir.TensorProtocol:
        """Q itself."""
        size = len(self.signs)
        return lazily(lambda: cast(self.rows(np.eye(size)), dtype.numpy()), dtype, (size, size))

    def read(self, old: ir.TensorProtocol, gain: ir.TensorProtocol, offset: float, *,
             transposed: bool) -> ir.TensorProtocol:
        """Q diag(offset + gain) W of what reads the stream."""
        return _changed(old, transposed, partial(self._read, gain, offset))

    def written(self, old: ir.TensorProtocol, *, transposed: bool) -> ir.TensorProtocol:
        """W Q of what writes to it."""
        return _changed(old, transposed, self._written)

    def bias(self, old: ir.TensorProtocol) -> ir.TensorProtocol:
        """b Q."""
        return lazily(lambda: cast(self.rows(read(old)), old.dtype.numpy()), old.dtype, old.shape.numpy())

    def _read(self, gain: ir.TensorProtocol, offset: float, weight_IO: Array) -> None:
        gain_I = read(gain).astype(np.float64) + offset
        for start in range(0, weight_IO.shape[1], _AT_ONCE):
            columns = weight_IO[:, start : start + _AT_ONCE]
            columns[:] = cast(self.rows(columns.T.astype(np.float64) * gain_I).T, weight_IO.dtype)

    def _written(self, weight_IO: Array) -> None:
        for start in range(0, len(weight_IO), _AT_ONCE):
            rows = weight_IO[start : start + _AT_ONCE]
            rows[:] = cast(self.rows(rows), weight_IO.dtype)


def _changed(old: ir.TensorProtocol, transposed: bool, change: _Change) -> ir.TensorProtocol:
    def compute() -> Array:
        stored = np.array(read(old))
        change(stored.T if transposed else stored)
        return stored

    return lazily(compute, old.dtype, old.shape.numpy())
