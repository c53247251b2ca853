"""The matrices that weights of few bits stand for, read from a graph's bytes by the operators' own specifications.

MatMulNBits: ONNX Runtime, docs/ContribOperators.md. DequantizeLinear before a MatMul: ONNX, Operators.md. Written apart
from what quantises here and from ONNX Runtime, so that a proof may rest on it. Axes: K inputs, N outputs, G blocks of
`block_size` inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from foldrank.errors import GraphNotRecognized
from foldrank.graph.linear.head import head_of
from foldrank.graph.linear.marks import MADE_BY
from foldrank.graph.linear.matrices import Dequantized, dequantized_weight, few_bits, stored_as
from foldrank.graph.linear.weights import Array, read
from foldrank.graph.view.skip_norms import read_apart
from foldrank.sites import Site

HEAD = "head"
"""What the matrix that makes the logits is called among sites."""

_OURS = "quantize"
"""What the pass that stores a plan's weights in few bits calls itself."""
_PACKED_BITS = (2, 4, 8)


@dataclass(frozen=True)
class Rounded:
    """A linear whose weight is stored in few bits: its sites (or `head`) and their columns, in storage order."""

    sites: tuple[str, ...]
    widths: tuple[int, ...]
    node: ir.Node

    def matrices(self) -> Iterator[tuple[str, Array]]:
        """(site, W [K, its columns]) in float32, read now. Raises GraphNotRecognized."""
        whole_KN = matrix(self.node)
        if sum(self.widths) != whole_KN.shape[1]:
            raise GraphNotRecognized(self.node.name, f"holds {whole_KN.shape[1]} columns, {', '.join(self.sites)} have "
                                     f"{sum(self.widths)}", "quantise another export of the model")
        start = 0
        for site, width in zip(self.sites, self.widths, strict=True):
            yield site, whole_KN[:, start : start + width]
            start += width

    def same_as(self, other: Rounded) -> bool:
        """Whether both store the same numbers, scales and zero points, bit for bit, to be read in the same way."""
        mine, theirs = stored_as(self.node), stored_as(other.node)
        if mine is None or theirs is None or few_bits(self.node) != few_bits(other.node):
            return False
        mine_all, their_all = (mine[0], *mine[1]), (theirs[0], *theirs[1])
        return len(mine_all) == len(their_all) and all(
            np.array_equal(_data(one, self.node), _data(two, other.node))
            for one, two in zip(mine_all, their_all, strict=True))


def rounded_linears(model: ir.Model) -> list[Rounded]:
    """Every linear of the blocks, and the head, that came with its weight in few bits: no pass of ours made it so.

    Reads no weight. Raises GraphNotRecognized where there are such weights and what they are cannot be told.
    """
    graph = model.graph
    given = {node for node in graph if few_bits(node) is not None and node.metadata_props.get(MADE_BY) != _OURS}
    if not given:
        return []
    found = [
        Rounded(tuple(str(Site(block.number, (role,))) for role in few.roles), few.widths, few.node)
        for block in read_apart(model).blocks for few in block.few_bits if few.node in given
    ]
    head = head_of(graph)
    if head in given and head is not None and (stored := few_bits(head)) is not None:
        found.append(Rounded((HEAD,), (stored.shape[1],), head))
    if lost := sorted(str(node.name) for node in given - {linear.node for linear in found}):
        raise GraphNotRecognized(lost[0], "is stored in few bits and its place in the decoder cannot be told",
                                 "quantise an export that `foldrank inspect` reads")
    return found


def matrices(linears: Iterable[Rounded]) -> Iterator[tuple[str, Array]]:
    """(site, W) of all, one linear's weight in memory at a time."""
    for linear in linears:
        yield from linear.matrices()


def matrix(node: ir.Node) -> Array:
    """W [K, N], float32, of a MatMulNBits, or of a MatMul or Gemm behind a DequantizeLinear. Raises GraphNotRecognized
    where it is stored in a way that no specification read here tells of."""
    if node.op_type == "MatMulNBits":
        return _of_matmul_n_bits(node)
    found = dequantized_weight(node)
    if found is None:
        raise GraphNotRecognized(node.name, "its weight is not stored in few bits", "report it")
    return _of_dequantize_linear(found)


def _of_matmul_n_bits(node: ir.Node) -> Array:
    """B [N, G, block_size * bits / 8], low bits first; (q - zero) * scale. Zero points are packed alike along G, or not
    packed and of the scales' type; without them zero is 2^(bits - 1)."""
    numbers = {name: attribute.as_int() for name, attribute in node.attributes.items()}
    k, n, bits, block = numbers["K"], numbers["N"], numbers.get("bits", 4), numbers["block_size"]
    if bits not in _PACKED_BITS:
        raise _unread(node, f"in {bits} bits")
    if numbers.get("weight_prepacked", 0):
        raise _unread(node, "in an order of its own (weight_prepacked)")
    parts = [None if value is None else _data(value, node) for value in node.inputs[1:5]]
    stored, scales, zeros, groups = [*parts, None, None][:4]
    if groups is not None:
        raise _unread(node, "with g_idx, blocks out of order")
    assert stored is not None
    assert scales is not None
    g = -(-k // block)
    steps = _unpacked(stored.reshape(n, -1), bits)[:, : g * block].reshape(n, g, block)
    if zeros is None:
        zero_NG = np.full((n, g), 2 ** (bits - 1), np.float32)
    elif zeros.dtype == np.uint8:
        zero_NG = _unpacked(zeros.reshape(n, -1), bits)[:, :g]
    else:
        zero_NG = zeros.reshape(n, g).astype(np.float32)
    scale_NG = scales.reshape(n, g).astype(np.float32)
    whole_NK = ((steps - zero_NG[:, :, None]) * scale_NG[:, :, None]).reshape(n, g * block)[:, :k]
    return np.ascontiguousarray(whole_NK.T)


def _unpacked(packed: Array, bits: int) -> Array:
    """Rows of bytes as rows of numbers of `bits` bits, the lowest bits first. Float32."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return ((packed[:, :, None] >> shifts) & np.uint8(2**bits - 1)).reshape(len(packed), -1).astype(np.float32)


def _of_dequantize_linear(found: Dequantized) -> Array:
    """(x - zero_point) * scale, one scale for all, for each index of an axis, or for each block along it."""
    numbers = _data(found.numbers, found.node).astype(np.float32)
    scale = _data(found.scale, found.node).astype(np.float32)
    zero = np.zeros_like(scale) if found.zero is None else _data(found.zero, found.node).astype(np.float32)
    axis = found.axis % numbers.ndim
    if found.block_size:
        scale, zero = (np.repeat(part, found.block_size, axis).take(range(numbers.shape[axis]), axis)
                       for part in (scale, zero))
    elif scale.size > 1:
        shape = [-1 if i == axis else 1 for i in range(numbers.ndim)]
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    whole = (numbers - zero) * scale
    return np.ascontiguousarray(whole.T if found.transposed else whole)


def _data(value: ir.Value, node: ir.Node) -> Array:
    tensor = value.const_value
    if tensor is None:
        raise _unread(node, f"as {value.name}, which is computed")
    return read(tensor)


def _unread(node: ir.Node, how: str) -> GraphNotRecognized:
    return GraphNotRecognized(node.name, f"its weight is stored {how}, which is not read here",
                              "quantise with onnxruntime.quantization.matmul_nbits_quantizer")
