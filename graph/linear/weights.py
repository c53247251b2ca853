"""Read initializers from disk piece by piece, and name new ones.

External tensors are read with plain reads rather than through onnx-ir's memory map: a map of a large data file counts
as resident memory, page by page, until it is closed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any, BinaryIO

import numpy as np
import onnx_ir as ir

from foldrank.digests import combine

Array = np.ndarray[Any, Any]
CHUNK_BYTES = 1 << 20
"""Fits a core's cache: a chunk is read, hashed and written before it leaves it."""


def read(tensor: ir.TensorProtocol) -> Array:
    """The whole tensor, in memory of its own; numbers of less than a byte one to a byte."""
    if tensor.dtype.bitwidth < 8:
        return np.asarray(tensor.numpy())
    return read_rows(tensor, 0, tensor.shape[0]) if len(tensor.shape) else np.asarray(tensor.numpy())  # type: ignore[arg-type]


def read_rows(tensor: ir.TensorProtocol, start: int, stop: int) -> Array:
    """Rows [start, stop) along the first axis."""
    if not isinstance(tensor, ir.ExternalTensor):
        return np.asarray(tensor.numpy()[start:stop])
    shape = tensor.shape.numpy()
    dtype = tensor.dtype.numpy()
    row_bytes = prod(shape[1:]) * dtype.itemsize
    with open_data(tensor) as file:
        file.seek((tensor.offset or 0) + start * row_bytes)
        rows = np.fromfile(file, dtype=dtype, count=(stop - start) * prod(shape[1:]))
    return rows.reshape(stop - start, *shape[1:])


def row_chunks(tensor: ir.TensorProtocol) -> Iterator[Array]:
    """The tensor in pieces of neighbouring rows; one computed on demand is computed once."""
    if isinstance(tensor, ir.ExternalTensor):
        yield from (read_rows(tensor, start, stop) for start, stop in _row_chunks(tensor))
    else:
        whole = read(tensor)
        yield from (whole[start:stop] for start, stop in _row_chunks(tensor))


def open_data(tensor: ir.ExternalTensor) -> BinaryIO:
    """The data file a tensor lies in; never through a link."""
    return os.fdopen(os.open(tensor.path, os.O_RDONLY | os.O_NOFOLLOW), "rb", buffering=0)


def combination(tensors: Sequence[ir.TensorProtocol], coefficients: Sequence[float]) -> ir.TensorProtocol:
    """Sum of c_i * W_i, computed when it is written, a few rows at a time, as `digests.combine` rounds it."""
    first = tensors[0]
    if not first.shape.numpy():
        raise ValueError("a scalar has no rows")

    def compute() -> Array:
        result = np.empty(first.shape.numpy(), dtype=first.dtype.numpy())
        for start, stop in _row_chunks(first):
            result[start:stop] = combine([read_rows(t, start, stop) for t in tensors], coefficients)
        return result

    return lazily(compute, first.dtype, first.shape.numpy())


def lazily(compute: Callable[[], Array], dtype: ir.DataType, shape: Sequence[int]) -> ir.LazyTensor:
    """A tensor computed each time it is asked for and never kept."""
    return ir.LazyTensor(lambda: ir.Tensor(compute(), dtype=dtype), dtype=dtype, shape=ir.Shape(shape))


def set_initializer(graph: ir.Graph, node: ir.Node, slot: int, tensor: ir.TensorProtocol) -> ir.Value:
    """Give one input of one node another tensor. An initializer that others read too stays theirs."""
    old = node.inputs[slot]
    if old is None or old.name is None:
        raise ValueError(f"{node.name}: input {slot} is not there")
    name = old.name
    if len(old.uses()) == 1:
        graph.initializers.pop(name)
    else:
        name = _free_name(graph, f"{name}.{node.name}")
    new = add_initializer(graph, name, tensor)
    node.replace_input_with(slot, new)
    return new


def add_initializer(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """Register a tensor under this name, or a number behind it where it is taken (two readers of one weight get a pair
    each); the tensor object itself stays as it is, others may hold it."""
    name = _free_name(graph, name)
    shape = ir.Shape(tensor.shape.numpy())
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
    graph.register_initializer(value)
    return value


def _free_name(graph: ir.Graph, name: str) -> str:
    number = 2
    free = name
    while free in graph.initializers:
        free = f"{name}.{number}"
        number += 1
    return free


def _row_chunks(tensor: ir.TensorProtocol) -> Iterator[tuple[int, int]]:
    rows = tensor.shape.numpy()[0]
    step = max(1, CHUNK_BYTES * rows // max(1, tensor.nbytes))
    for start in range(0, rows, step):
        yield start, min(rows, start + step)
