"""Graphs of one product, x @ W or (x @ A) @ B, with weights of noise: what a cost table times. W in few bits too.

All graphs of a folder share one file of noise; copies of a product have weights of their own in it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from foldrank.edits.storage import FewBits
from foldrank.plans.solver.costs import Shape
from foldrank.runtime.providers.provider import Provider

DTYPES: dict[str, type[np.floating[Any]]] = {"fp32": np.float32, "fp16": np.float16}

ON_GPU_BYTES, ON_GPU_COPIES = 2**28, 64
"""On a GPU: bytes of W's copies in one graph, several times the cache of today's cards; and copies at most."""

_NOISE, _PAGE = "noise", 4096


def copies_of(shape: Shape, dtype: str, provider: Provider) -> int:
    """How often a graph computes the product of that shape: once on a CPU."""
    if provider.processor == "cpu":
        return 1
    return max(2, min(ON_GPU_COPIES, -(-ON_GPU_BYTES // weight_bytes(shape, dtype))))


def write_product(
    folder: Path, shape: Shape, rank: int | None, rng: np.random.Generator, dtype: str = "fp32", copies: int = 1,
    storage: FewBits | None = None,
) -> Path:
    """Write a graph that computes x @ W, or (x @ A) @ B; so many times, each with weights of its own, stored in few
    bits where a `storage` is given.

    Its weights are parts of one file of noise, which all graphs of the folder share.
    """
    n_in, n_out = shape
    sizes = [shape] if rank is None else [(n_in, rank), (rank, n_out)]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(DTYPES[dtype]))
    nodes, weights, start = [], [], 0
    for copy in range(copies):
        values = ["x", f"y{copy}"] if rank is None else ["x", f"h{copy}", f"y{copy}"]
        for i, size in enumerate(sizes):
            parts = []
            for part, (held, shaped, length) in enumerate(_parts(size, kind, dtype, storage)):
                parts.append(f"w{copy}.{i}.{part}")
                weights.append(_stored(parts[-1], held, shaped, start, length))
                start += -(-length // _PAGE) * _PAGE
            nodes.append(_product([values[i], *parts], values[i + 1], f"m{copy}.{i}", size, storage))
    _lengthen(folder / _NOISE, start, rng, dtype)
    x, *outputs = (helper.make_tensor_value_info(name, kind, [1, "tokens", size])
                   for name, size in [("x", n_in), *((f"y{copy}", n_out) for copy in range(copies))])
    model = helper.make_model(
        helper.make_graph(nodes, "product", [x], outputs, weights), ir_version=10,
        opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)])
    path = folder / f"{n_in}x{n_out}.{rank}.{storage.bits if storage else 'floats'}.onnx"
    onnx.save(model, str(path))
    return path


def _parts(size: Shape, kind: int, dtype: str, storage: FewBits | None) -> list[tuple[int, tuple[int, ...], int]]:
    """ONNX type, shape and bytes of what a matrix [in, out] is stored as."""
    if storage is None:
        return [(kind, size, weight_bytes(size, dtype))]
    numbers, scales, zeros = storage.layout(size)
    byte = onnx.TensorProto.UINT8
    found = [(byte, numbers, math.prod(numbers)), (kind, scales, weight_bytes(scales, dtype))]
    return found if storage.symmetric else [*found, (byte, zeros, math.prod(zeros))]


def _product(inputs: list[str], output: str, name: str, size: Shape, storage: FewBits | None) -> onnx.NodeProto:
    if storage is None:
        return helper.make_node("MatMul", inputs, [output], name=name)
    said = {"accuracy_level": storage.accuracy} if storage.accuracy else {}
    return helper.make_node("MatMulNBits", inputs, [output], name=name, domain="com.microsoft", K=size[0], N=size[1],
                            bits=storage.bits, block_size=storage.block_size, **said)


def _stored(name: str, kind: int, size: tuple[int, ...], start: int, length: int) -> onnx.TensorProto:
    """A weight whose numbers lie in the file of noise."""
    where = {"location": _NOISE, "offset": start, "length": length}
    return onnx.TensorProto(
        name=name, data_type=kind, dims=size, data_location=onnx.TensorProto.EXTERNAL,
        external_data=[onnx.StringStringEntryProto(key=key, value=str(value)) for key, value in where.items()],
    )


def _lengthen(noise: Path, size: int, rng: np.random.Generator, dtype: str) -> None:
    """Write the file, or add to it, until it has so many bytes: one piece of random numbers over and over."""
    have = noise.stat().st_size if noise.exists() else 0
    if have < size:
        piece = rng.standard_normal(2**20, dtype=np.float32).astype(DTYPES[dtype])
        with noise.open("ab") as file:
            for _ in range(-(-(size - have) // piece.nbytes)):
                piece.tofile(file)


def weight_bytes(shape: tuple[int, ...], dtype: str) -> int:
    """Of one matrix of that shape."""
    return math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
