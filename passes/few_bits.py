"""Put one MatMulNBits in the place of a MatMul or Gemm: its numbers, scales and zero points are those of the plan, or
are made when they are written.

Knows nodes and how few bits are laid out. Knows no kind of edit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import onnx_ir as ir

from foldrank.digests import cast
from foldrank.edits.storage import FewBits, Numbers, StorageEdit
from foldrank.errors import PassRefused
from foldrank.graph.linear.linears import WEIGHT_TYPES, StoredMatrix, bias_of, initializer_at, stored_matrix
from foldrank.graph.linear.marks import BLOCK, MADE_BY, PART, SITE
from foldrank.graph.linear.weights import Array, add_initializer, lazily, read
from foldrank.passes.base import Change, Quantizer, Work
from foldrank.sites import Site

DOMAIN = "com.microsoft"


def table_at(node: ir.Node) -> StoredMatrix:
    """The table that a Gather reads rows of, [width, words] as a head would hold it. Raises PassRefused where it is no
    matrix of floats."""
    value = node.inputs[0]
    producer = value.producer() if value is not None else None
    turned = producer is not None and producer.op_type == "Transpose"
    place = (producer, 0) if producer is not None and turned else (node, 0)
    table = place[0].inputs[0]
    tensor = table.const_value if table is not None and table.is_initializer() else None
    if node.op_type != "Gather" or tensor is None or len(tensor.shape) != 2 or tensor.dtype not in WEIGHT_TYPES:
        what = "embedding: the graph reads no table of floats"
        raise PassRefused("quantize", [what], "plan with embedding_bits=none")
    return StoredMatrix(place, transposed=not turned)


@dataclass(frozen=True)
class Source:
    """Where numbers come from: the plan's `arrays`, or, for what it rounds to nearest, the `quantizer`."""

    arrays: Mapping[str, Array]
    quantizer: Quantizer | None

    @classmethod
    def of(cls, work: Work, edits: Sequence[StorageEdit]) -> Source:
        """What edits need. Raises ValueError where a quantizer is needed and was not handed in."""
        if work.quantizer is None and any(not edit.held for edit in edits):
            raise ValueError("the plan rounds weights to nearest: a quantizer is needed")
        return cls(work.arrays, work.quantizer)

    def misfits(
        self, where: str, shape: tuple[int, int], storage: FewBits, held: Sequence[Numbers]
    ) -> Iterator[str]:
        """In what planned numbers, joined along `out`, are not those of a matrix [in, out]."""
        wanted = storage.layout(shape)[: 2 if storage.symmetric else 3]
        for part, expected in enumerate(wanted):
            shapes = [self.arrays[names_of(numbers)[part]].shape for numbers in held]
            found = (sum(shape[0] for shape in shapes), *shapes[0][1:])
            if found != expected or any(shape[1:] != expected[1:] for shape in shapes):
                yield f"{where}: planned numbers are {found}, the graph needs {expected}"
                return

    def joined(self, held: Sequence[Numbers], part: int) -> Array:
        """Planned numbers, scales or zero points of matrices side by side."""
        return np.concatenate([self.arrays[names_of(numbers)[part]] for numbers in held])


def names_of(numbers: Numbers) -> tuple[str, ...]:
    """Names of numbers, scales, and zero points where there are any."""
    return (numbers.numbers, numbers.scales, *(() if numbers.zeros is None else (numbers.zeros,)))


def matrix_at(node: ir.Node) -> StoredMatrix:
    """Of a MatMul or Gemm that reads a float matrix."""
    stored = stored_matrix(node)
    assert stored is not None
    return stored


class Swap:
    """Replaces nodes of one graph. A weight that several read is quantized once."""

    def __init__(self, graph: ir.Graph, source: Source, made_by: str) -> None:
        graph.opset_imports.setdefault(DOMAIN, 1)
        self._graph, self._source, self._made_by = graph, source, made_by
        self._made: dict[tuple[ir.Value, bool, FewBits, tuple[Numbers, ...]], list[ir.Value | None]] = {}

    def replace(
        self, node: ir.Node, storage: FewBits, sites: tuple[Site, ...], held: tuple[Numbers, ...] = ()
    ) -> Change:
        """Put MatMulNBits, and an Add for a Gemm's bias, in the node's place. No sites: the head. `held`: planned
        numbers, side by side; none: those of the quantizer."""
        matrix = matrix_at(node)
        weight = matrix.weight
        key = (weight, matrix.transposed, storage, held)
        fresh = key not in self._made
        if fresh:
            self._made[key] = self._stored(matrix, storage, str(weight.name), held)
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

    def look_up(self, node: ir.Node, storage: FewBits, head: ir.Node | None) -> Change:
        """Put GatherBlockQuantized in the place of a Gather of a table's rows. `head`: the MatMulNBits whose numbers
        are the table's too.

            numbers [words, blocks, bytes] --> Reshape [words, bytes] --> GatherBlockQuantized <-- tokens, scales
        """
        matrix = table_at(node)
        weight, (width, words) = matrix.weight, matrix.shape
        stored = self._stored(matrix, storage, str(weight.name), ()) if head is None else [*head.inputs[1:]]
        marks = {MADE_BY: self._made_by}
        flat = ir.Tensor(np.array([words, width * storage.bits // 8], np.int64))
        shape = add_initializer(self._graph, f"{node.name}_Q{storage.bits}/shape", flat)
        rows = self._node(node, "", "Reshape", [stored[0], shape], f"_Q{storage.bits}/Reshape", marks)
        rows.outputs[0].type, rows.outputs[0].shape = ir.TensorType(ir.DataType.UINT8), ir.Shape(flat.numpy().tolist())
        inputs = [rows.outputs[0], node.inputs[1], *stored[1:]]
        made = self._node(node, DOMAIN, "GatherBlockQuantized", inputs, f"_Q{storage.bits}", marks)
        numbers = {"bits": storage.bits, "block_size": storage.block_size, "gather_axis": 0, "quantize_axis": 1}
        for name, value in numbers.items():
            made.attributes[name] = ir.AttrInt64(name, value)
        node.outputs[0].replace_all_uses_with(made.outputs[0])
        size = matrix.tensor.nbytes
        before = size if self._remove(node, weight, matrix.place[0]) else 0
        after = 0 if head is not None else sum(
            v.const_value.nbytes for v in stored if v is not None and v.const_value is not None)
        return Change("embedding", before, after, f"{storage.bits} bits, blocks of {storage.block_size}"
                      f"{', one table with the head' if head is not None else ''}")

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

    def _stored(
        self, matrix: StoredMatrix, storage: FewBits, name: str, held: tuple[Numbers, ...]
    ) -> list[ir.Value | None]:
        """Initializers of numbers, scales and, where not symmetric, zero points."""
        part: Callable[[int], Array] = partial(self._source.joined, held)
        if not held:
            part = _Parts(matrix, storage, self._source.quantizer).of
        dtype, (numbers, scales, zeros) = matrix.tensor.dtype, storage.layout(matrix.shape)
        tensors = [lazily(partial(part, 0), ir.DataType.UINT8, numbers),
                   lazily(lambda: cast(part(1), dtype.numpy()), dtype, scales)]
        if not storage.symmetric:
            tensors.append(lazily(partial(part, 2), ir.DataType.UINT8, zeros))
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

    def __init__(self, matrix: StoredMatrix, storage: FewBits, quantizer: Quantizer | None) -> None:
        assert quantizer is not None
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
