"""Store weights in few bits: y = x @ W becomes MatMulNBits, for a dense weight and for both factors of a pair.

Knows plans and graphs. What turns a matrix into numbers, scales and zero points is handed in: ONNX Runtime's own
quantizer (`runtime/quantizer.py`), so that this folder needs no runtime. It comes after every other pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from foldrank.digests import WeightDigest, cast
from foldrank.edits import FewBits, QuantizeHead, QuantizeWeight
from foldrank.errors import PassRefused, PlanMismatch
from foldrank.graph.decoder import Decoder, Linear, View
from foldrank.graph.head import head_of
from foldrank.graph.linears import Place, bias_of, initializer_at, stored_matrix
from foldrank.graph.marks import BLOCK, MADE_BY, PART, SITE
from foldrank.graph.weights import Array, add_initializer, lazily, read
from foldrank.passes.base import Change, Effect, GraphPass, Receipt
from foldrank.passes.proof import prove
from foldrank.sites import Site

Quantizer = Callable[[Array, int, int, bool], tuple[Array, Array, Array | None]]
"""(W [in, out], bits, block size, symmetric) to numbers, scales and zero points, as MatMulNBits reads them."""

DOMAIN = "com.microsoft"


@dataclass(frozen=True)
class QuantizeLinears(GraphPass):
    """Put MatMulNBits in the place of what computes the sites, and of the head where `head` says so. `replaced`: sites
    that other edits of the plan wrote, whose weights are the plan's own; `source` names its checkpoint in messages."""

    edits: tuple[QuantizeWeight, ...]
    head: QuantizeHead | None
    replaced: frozenset[Site]
    quantizer: Quantizer
    source: str
    name: ClassVar[str] = "quantize"
    effect: ClassVar[Effect] = Effect.APPROXIMATE

    def edit(self, model: ir.Model, view: View | None = None) -> Receipt:
        """Prove every weight of the checkpoint, then replace. Raises PassRefused, PlanMismatch."""
        decoder = (view or View(model)).decoder
        by_site = {edit.site: edit for edit in self.edits}
        found = list(_found(by_site, decoder))
        head = head_of(model.graph) if self.head else None
        reasons = [*_missing(by_site, found), *(r for node, sites in found for r in _misfits(node, sites, by_site))]
        if self.head and (head is None or stored_matrix(head) is None or _matrix(head).shape != self.head.shape):
            reasons.append(f"head: no MatMul with a float weight {self.head.shape} makes the logits")
        if reasons:
            raise PassRefused(self.name, reasons, "apply the plan to an export of the checkpoint it was made for")
        digests = {edit.site: edit.replaces[0] for edit in self.edits if edit.site not in self.replaced}
        prove(_untouched(decoder, digests), digests, self.source)
        if self.head and head and not self.head.replaces.matches(_matrix(head).read()):
            raise PlanMismatch("head", f"the graph holds another than the plan was made for ({self.source})",
                               "apply the plan to a dense export of that checkpoint, or plan again")
        model.graph.opset_imports.setdefault(DOMAIN, 1)
        surgery = _Surgery(model.graph, self.quantizer, self.name)
        changes = [surgery.replace(node, by_site[sites[0]].storage, sites) for node, sites in found]
        if self.head and head:
            changes.append(surgery.replace(head, self.head.storage, ()))
        return Receipt(self.name, self.effect, tuple(changes))


def _found(by_site: dict[Site, QuantizeWeight], decoder: Decoder) -> Iterator[tuple[ir.Node, tuple[Site, ...]]]:
    """Every node that computes one of the sites, or a part of it, with the single-role sites it computes."""
    for block in decoder.blocks:
        dense = {linear.node: linear.sites for linear in block.linears}
        for node in block.nodes:
            sites = dense.get(node, ())
            if not sites and node.metadata_props.get(PART) in ("A", "B"):
                written = map(Site.parse, node.metadata_props[SITE].split(","))
                sites = tuple(part for site in written for part in site.parts)
            if by_site.keys() & set(sites):
                yield node, sites


def _missing(by_site: dict[Site, QuantizeWeight], found: list[tuple[ir.Node, tuple[Site, ...]]]) -> Iterator[str]:
    there = {site for _, sites in found for site in sites}
    for site in by_site.keys() - there:
        yield f"{site}: no MatMul with a float weight"


def _misfits(node: ir.Node, sites: tuple[Site, ...], by_site: dict[Site, QuantizeWeight]) -> Iterator[str]:
    if rest := [str(site) for site in sites if site not in by_site]:
        yield f"{node.name}: holds {', '.join(rest)} too, which the plan leaves as they are"
    elif len({by_site[site].storage for site in sites}) > 1:
        yield f"{node.name}: its roles are to be stored in several ways"
    elif (inputs := {by_site[site].shape[0] for site in sites}) and node.metadata_props.get(PART) != "B":
        rows = _matrix(node).shape[0]
        if inputs != {rows}:
            yield f"{sites[0]}: reads {rows} inputs, plan says {sorted(inputs)}"


def _untouched(decoder: Decoder, digests: Mapping[Site, WeightDigest]) -> list[Linear]:
    return [linear for block in decoder.blocks for linear in block.linears if set(linear.sites) & digests.keys()]


@dataclass(frozen=True)
class _Matrix:
    """W [in, out] as a node reads it."""

    place: Place
    transposed: bool

    @property
    def tensor(self) -> ir.TensorProtocol:
        tensor = initializer_at(self.place).const_value
        assert tensor is not None
        return tensor

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.tensor.shape.numpy()
        return (columns, rows) if self.transposed else (rows, columns)

    def read(self) -> Array:
        weight = read(self.tensor)
        return np.ascontiguousarray(weight.T) if self.transposed else weight


def _matrix(node: ir.Node) -> _Matrix:
    stored = stored_matrix(node)
    assert stored is not None  # `_found` gives nodes that read a float matrix
    return _Matrix(*stored)


class _Surgery:
    """Replaces nodes of one graph. A weight that several read is quantized once."""

    def __init__(self, graph: ir.Graph, quantizer: Quantizer, made_by: str) -> None:
        self._graph, self._quantizer, self._made_by = graph, quantizer, made_by
        self._made: dict[tuple[ir.Value, bool], list[ir.Value | None]] = {}

    def replace(self, node: ir.Node, storage: FewBits, sites: tuple[Site, ...]) -> Change:
        """Put MatMulNBits, and an Add for a Gemm's bias, in the node's place. No sites: the head."""
        matrix = _matrix(node)
        weight = initializer_at(matrix.place)
        key = (weight, matrix.transposed)
        fresh = key not in self._made
        if fresh:
            self._made[key] = self._stored(matrix, storage, str(weight.name))
        stored = self._made[key]
        bias = bias_of(node) if node.op_type == "Gemm" else None
        (n_in, n_out), site = matrix.shape, node.metadata_props.get(SITE, ",".join(map(str, sites)))
        marks = {MADE_BY: self._made_by}
        if sites:
            marks |= {SITE: site, PART: node.metadata_props.get(PART, "dense"), BLOCK: str(sites[0].block)}
        made = self._node(node, DOMAIN, "MatMulNBits", [node.inputs[0], *stored], f"_Q{storage.bits}", marks)
        for name, value in (("K", n_in), ("N", n_out), ("bits", storage.bits), ("block_size", storage.block_size)):
            made.attributes[name] = ir.AttrInt64(name, value)
        if storage.accuracy:
            made.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", storage.accuracy)
        if bias is not None:
            operands = [made.outputs[0], initializer_at(bias)]
            made = self._node(node, "", "Add", operands, "/bias", {**marks, **({PART: "bias"} if sites else {})})
        node.outputs[0].replace_all_uses_with(made.outputs[0])
        size = matrix.tensor.nbytes
        before = size if self._remove(node, weight, matrix.place[0]) else 0
        after = sum(v.const_value.nbytes for v in stored if v is not None and v.const_value is not None) * fresh
        part = marks[PART] if marks.get(PART) in ("A", "B") else ""
        how = f"{storage.bits} bits, blocks of {storage.block_size}"
        return Change(f"{site or 'head'} {part}".strip(), before, after, how)

    def _stored(self, matrix: _Matrix, storage: FewBits, name: str) -> list[ir.Value | None]:
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

    def __init__(self, matrix: _Matrix, storage: FewBits, quantizer: Quantizer) -> None:
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
