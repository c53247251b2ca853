"""Put one MatMulNBits in the place of a MatMul or Gemm: its numbers, scales and zero points made when they are written.

Knows nodes and how few bits are laid out. Knows nothing of plans.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import onnx_ir as ir

from foldrank.digests import cast
from foldrank.edits.storage import FewBits
from foldrank.errors import PassRefused
from foldrank.graph.linear.linears import StoredMatrix, bias_of, initializer_at, stored_matrix
from foldrank.graph.linear.marks import BLOCK, MADE_BY, PART, SITE
from foldrank.graph.linear.weights import Array, add_initializer, lazily, read
from foldrank.passes.base import Change, Quantizer, Work
from foldrank.sites import Site

DOMAIN = "com.microsoft"


def quantizer_of(work: Work) -> Quantizer:
    """What makes few bits of matrices. Raises ValueError where it was not handed in."""
    if work.quantizer is None:
        raise ValueError("the plan stores weights in few bits: a quantizer is needed")
    return work.quantizer


def matrix_at(node: ir.Node) -> StoredMatrix:
    """Of a MatMul or Gemm that reads a float matrix."""
    stored = stored_matrix(node)
    assert stored is not None
    return stored


class Swap:
    """Replaces nodes of one graph. A weight that several read is quantized once."""

    def __init__(self, graph: ir.Graph, quantizer: Quantizer, made_by: str) -> None:
        graph.opset_imports.setdefault(DOMAIN, 1)
        self._graph, self._quantizer, self._made_by = graph, quantizer, made_by
        self._made: dict[tuple[ir.Value, bool, FewBits], list[ir.Value | None]] = {}

    def replace(self, node: ir.Node, storage: FewBits, sites: tuple[Site, ...]) -> Change:
        """Put MatMulNBits, and an Add for a Gemm's bias, in the node's place. No sites: the head."""
        matrix = matrix_at(node)
        weight = matrix.weight
        key = (weight, matrix.transposed, storage)
        fresh = key not in self._made
        if fresh:
            self._made[key] = self._stored(matrix, storage, str(weight.name))
        stored, marks = self._made[key], self._marks(node, sites)
        made = self._few_bits(node, matrix.shape, stored, storage, marks)
        if node.op_type == "Gemm" and (bias := bias_of(node)) is not None:
            operands = [made.outputs[0], initializer_at(bias)]
            made = self._node(node, "", "Add", operands, "/bias", {**marks, **({PART: "bias"} if sites else {})})
        if node.outputs[0].is_graph_output():
            made.outputs[0].name = node.outputs[0].name
        node.outputs[0].replace_all_uses_with(made.outputs[0], replace_graph_outputs=True)
        size = matrix.tensor.nbytes
        before = size if self._remove(node, weight, matrix.place[0]) else 0
        after = sum(v.const_value.nbytes for v in stored if v is not None and v.const_value is not None) * fresh
        where = f"{marks.get(SITE, 'head')} {marks[PART] if marks.get(PART) in ('A', 'B') else ''}".strip()
        return Change(where, before, after, f"{storage.bits} bits, blocks of {storage.block_size}")

    def _marks(self, node: ir.Node, sites: tuple[Site, ...]) -> dict[str, str]:
        """What later views read the new node by; a factor stays one."""
        if not sites:
            return {MADE_BY: self._made_by}
        site = node.metadata_props.get(SITE, ",".join(map(str, sites)))
        return {MADE_BY: self._made_by, SITE: site, PART: node.metadata_props.get(PART, "dense"),
                BLOCK: str(sites[0].block)}

    def _few_bits(
        self, node: ir.Node, shape: tuple[int, int], stored: Sequence[ir.Value | None], storage: FewBits,
        marks: dict[str, str],
    ) -> ir.Node:
        made = self._node(node, DOMAIN, "MatMulNBits", [node.inputs[0], *stored], f"_Q{storage.bits}", marks)
        numbers = {"K": shape[0], "N": shape[1], "bits": storage.bits, "block_size": storage.block_size}
        if storage.accuracy:  # other providers do not know the attribute
            numbers["accuracy_level"] = storage.accuracy
        for name, value in numbers.items():
            made.attributes[name] = ir.AttrInt64(name, value)
        return made

    def _stored(self, matrix: StoredMatrix, storage: FewBits, name: str) -> list[ir.Value | None]:
        """Initializers of numbers, scales and, where not symmetric, zero points."""
        parts = _Parts(matrix, storage, self._quantizer)
        (n_in, n_out), dtype = matrix.shape, matrix.tensor.dtype
        groups = -(-n_in // storage.block_size)
        packed = (n_out, groups, storage.block_size * storage.bits // 8)
        tensors = [lazily(lambda: parts.of(0), ir.DataType.UINT8, packed),
                   lazily(lambda: cast(parts.of(1), dtype.numpy()), dtype, (n_out, groups))]
        if not storage.symmetric:
            tensors.append(lazily(lambda: parts.of(2), ir.DataType.UINT8, (n_out, -(-groups * storage.bits // 8))))
        names = (f"{name}_Q{storage.bits}", f"{name}_scales", f"{name}_zero_points")
        return [add_initializer(self._graph, *named) for named in zip(names, tensors, strict=False)]

    def _node(
        self, old: ir.Node, domain: str, op: str, inputs: Sequence[ir.Value | None], suffix: str, marks: dict[str, str]
    ) -> ir.Node:
        name = f"{old.name}{suffix}"
        node = ir.Node(domain, op, inputs, name=name, metadata_props={**old.metadata_props, **marks})
        output, whole = node.outputs[0], old.outputs[0]
        output.name, output.type = f"{name}/output_0", whole.type
        output.shape = ir.Shape(whole.shape) if whole.shape is not None else None
        self._graph.insert_before(old, node)
        return node

    def _remove(self, node: ir.Node, weight: ir.Value, reader: ir.Node) -> bool:
        """Take the node away; whether nothing reads its weight any more, which leaves too then."""
        self._graph.remove(node, safe=True)
        if reader is not node and not reader.outputs[0].uses():
            self._graph.remove(reader, safe=True)
        if weight.uses():
            return False
        self._graph.initializers.pop(str(weight.name))
        return True


class _Parts:
    """What the quantizer makes of one matrix, kept until the last of its parts was asked for."""

    def __init__(self, matrix: StoredMatrix, storage: FewBits, quantizer: Quantizer) -> None:
        self._storage, self._quantizer = storage, quantizer
        self._tensor, self._transposed = matrix.tensor, matrix.transposed  # the node that reads it leaves

    def of(self, part: int) -> Array:
        """Numbers, scales, zero points by place; computed once where they are asked for in that order."""
        found = self._found[part]
        assert found is not None
        if part == 2 - self._storage.symmetric:
            del self.__dict__["_found"]
        return np.ascontiguousarray(found)

    @cached_property
    def _found(self) -> tuple[Array, Array, Array | None]:
        weight = read(self._tensor).astype(np.float32)
        if not np.isfinite(weight).all():
            raise PassRefused("quantize", [f"{self._tensor.name} holds NaN or infinity"], "export again")
        storage = self._storage
        whole = weight.T if self._transposed else weight
        return self._quantizer(whole, storage.bits, storage.block_size, storage.symmetric)
