"""What a graph must read and compute per run, counted from the graph itself: the yardstick beside every measured speed.

Bytes: every weight as often as a linear map reads it (blocks may share one that is stored once: the others have gone
through the caches in between), what else nodes read whole once, of an embedding or a rotary table one row per token,
plus the keys and values in the cache. FLOPs: two per weight and token, plus attention's two products over what is not
masked. Activations are not counted: they stay in the processor's caches. B rows, T tokens of a run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import onnx_ir as ir

from foldrank.benchmarks.workload import Workload
from foldrank.edits.anatomy import Anatomy
from foldrank.errors import GraphNotRecognized
from foldrank.graph.anatomy import anatomy_of
from foldrank.graph.linear.matrices import few_bits
from foldrank.graph.safe.load import load_model

_LINEAR = frozenset({"MatMul", "Gemm", "MatMulNBits"})
_ROW_WISE = frozenset({"Gather", "GatherBlockQuantized", "GroupQueryAttention", "RotaryEmbedding"})
_VIEWS = frozenset({"Transpose", "Identity", "Cast", "Reshape"})


@dataclass(frozen=True)
class Work:
    """Costs of a graph per run and per token. All bytes as stored, all FLOPs multiplications plus additions."""

    weight_bytes: int
    """Read once per run, however many tokens."""
    row_bytes: int
    """Read per token: one row of each embedding and rotary table."""
    linear_flops: int
    """Per token, in all linear maps."""
    cache_bytes: int
    """Keys and values of one position, over all blocks."""
    attention_flops: int
    """Of one token looking at one position, over all blocks."""

    def decode_bytes(self, workload: Workload) -> float:
        """Bytes one decoding step of the whole batch reads, at the workload's mean context."""
        return self.weight_bytes + workload.batch * (self.row_bytes + workload.context * self.cache_bytes)

    def prefill_flops(self, workload: Workload) -> float:
        """FLOPs of reading the prompts, each token looking at itself and those before."""
        tokens, looks = workload.prompt, workload.prompt * (workload.prompt + 1) / 2
        return workload.batch * (tokens * self.linear_flops + looks * self.attention_flops)


def count(model: ir.Model, anatomy: Anatomy) -> Work:
    """Count a decoder graph, whose anatomy tells of attention and cache. Raises GraphNotRecognized."""
    whole, rows, flops = _weights(model)
    pairs, size = len(anatomy.cached), anatomy.head_size
    return Work(
        weight_bytes=whole, row_bytes=rows, linear_flops=flops,
        cache_bytes=2 * pairs * anatomy.kv_heads * size * _cache_item(model),
        attention_flops=4 * pairs * anatomy.heads * size,
    )


def count_file(path: Path) -> Work:
    """Count a graph file. Raises GraphNotRecognized, UnsafeModel."""
    return count(load_model(path), anatomy_of(path))


def _weights(model: ir.Model) -> tuple[int, int, int]:
    """Bytes read whole, bytes read by rows, FLOPs per token. A weight used both ways counts in both."""
    whole: dict[tuple[str, ir.Node | None], int] = {}
    rows = flops = 0
    for node in model.graph:
        for name, shape, nbytes in _read_by(node):
            if node.op_type in _ROW_WISE:
                rows += nbytes // shape[0] if len(shape) > 1 else 0
            else:
                whole[name, node if node.op_type in _LINEAR else None] = nbytes
        flops += _linear_flops(node)
    return sum(whole.values()), rows, flops


def _read_by(node: ir.Node) -> Iterator[tuple[str, tuple[int, ...], int]]:
    """Name, shape as the node sees it, bytes of each initializer a node reads, also through a Transpose.

    Nodes that only show an initializer differently (ONNX Runtime folds them away when loading) read nothing themselves.
    """
    if node.op_type in _VIEWS and all(v is None or _constant(v) for v in node.inputs):
        return
    for value in node.inputs:
        if value is not None and (found := _constant(value)) is not None:
            tensor, transposed = found
            shape = tuple(tensor.shape.numpy())
            yield tensor.name or "", shape[::-1] if transposed else shape, tensor.nbytes


def _constant(value: ir.Value) -> tuple[Any, bool] | None:
    """The initializer behind a value, and whether it is transposed on the way."""
    if value.is_initializer() and value.const_value is not None:
        return value.const_value, False
    node = value.producer()
    if node is None or node.op_type not in _VIEWS or node.inputs[0] is None:
        return None
    found = _constant(node.inputs[0])
    return found and (found[0], found[1] ^ (node.op_type == "Transpose"))


def _linear_flops(node: ir.Node) -> int:
    """FLOPs per token of a linear map with a constant weight, else 0."""
    if node.op_type not in _LINEAR:
        return 0
    if (matrix := few_bits(node)) is not None:
        return 2 * matrix.numbers
    constants = [found for v in node.inputs[:2] if v is not None and (found := _constant(v)) is not None]
    return sum(2 * prod(tensor.shape.numpy()) for tensor, _ in constants)


def _cache_item(model: ir.Model) -> int:
    """Bytes of a number in the cache."""
    keys = [v for v in model.graph.inputs if re.fullmatch(r"past_key_values\.\d+\.key", v.name or "")]
    if not keys or keys[0].dtype is None:
        raise GraphNotRecognized(model.graph.name, "no past_key_values.N.key inputs of a known type", "export again")
    return int(keys[0].dtype.itemsize)
