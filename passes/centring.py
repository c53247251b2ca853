"""Weights and biases of a stream of no mean: those that write to it, and what a bias before a weight is behind it.

Knows nothing of graphs' nodes.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from foldrank.digests import cast
from foldrank.graph.linear.weights import Array, lazily, read, row_chunks

_AT_ONCE = 256
"""Rows centred at once: more take memory, fewer take time."""


def centred(old: ir.TensorProtocol, *, transposed: bool) -> ir.TensorProtocol:
    """W [in, out] (I - 1 1^T / out), or a vector so; float64, rounded once."""
    def compute() -> Array:
        stored = np.array(read(old))
        rows = stored.T if transposed else np.atleast_2d(stored)
        for start in range(0, len(rows), _AT_ONCE):
            wide = rows[start : start + _AT_ONCE].astype(np.float64)
            rows[start : start + _AT_ONCE] = cast(wide - wide.mean(axis=1, keepdims=True), stored.dtype)
        return stored

    return lazily(compute, old.dtype, old.shape.numpy())


def behind(bias: ir.TensorProtocol, weight: ir.TensorProtocol, transposed: bool) -> Array:
    """b W [out], of W [in, out] or its transpose; float64, given in float32."""
    bias_I, parts, start = read(bias).astype(np.float64), list[Array](), 0
    for rows in row_chunks(weight):
        wide = rows.astype(np.float64)
        parts.append(wide @ bias_I if transposed else bias_I[start : start + len(rows)] @ wide)
        start += len(rows)
    return np.asarray(np.concatenate(parts) if transposed else np.sum(parts, axis=0), dtype=np.float32)
