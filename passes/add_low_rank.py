"""Put pairs beside linears: y = x W  ->  y = x W + (x A) B, W as the passes before left it.

    x ──┬── linear (or A, B in its place) ── Add ── bias, parts, sums
        └── A ── B ── (Concat) ───────────────┘

Of several linears that read one input each has its columns of B, and all read one x A. Of a packed linear whose roles
have pairs of their own, those are computed apart and joined, in one Add; where a role has none, the B beside it has
columns of zeros there. Knows plans and graphs. Knows nothing of how factors were computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from foldrank.digests import cast
from foldrank.edits.add_low_rank import AddLowRank
from foldrank.edits.anatomy import Anatomy
from foldrank.edits.base import Part
from foldrank.errors import PassRefused
from foldrank.graph.anatomy import read_anatomy
from foldrank.graph.linear.linears import alike, stored_matrix
from foldrank.graph.linear.marks import BESIDE, BLOCK, MADE_BY, PART, SITE, sites_of
from foldrank.graph.linear.matrices import stored_as
from foldrank.graph.linear.weights import Array, add_initializer, lazily
from foldrank.graph.view.decoder import Decoder, View
from foldrank.passes.base import Change, Effect, GraphPass, Receipt, Stage, Work
from foldrank.passes.pieces import runs
from foldrank.passes.proof import prove, replaced_digests
from foldrank.passes.ranges import check_range
from foldrank.sites import Site


def passes(edits: tuple[AddLowRank, ...], work: Work) -> Iterator[tuple[Stage, GraphPass]]:
    """One, over all sites, when all else is done."""
    yield Stage.BESIDE, PutBeside(edits, work.arrays, work.source, work.written)


@dataclass(frozen=True)
class PutBeside(GraphPass):
    """Put pairs beside. `arrays` holds the factors, float32; `source` names the plan's checkpoint in messages.
    `written`: parts that the plan wrote before, whose weights are its own."""

    edits: tuple[AddLowRank, ...]
    arrays: Mapping[str, Array]
    source: str
    written: frozenset[Part] = frozenset()
    name: ClassVar[str] = "add_low_rank"
    effect: ClassVar[Effect] = Effect.APPROXIMATE

    def edit(self, model: ir.Model, view: View | None = None) -> Receipt:
        """Prove every weight of the checkpoint, then add; those that came in few bits are proved by nobody. Raises
        PassRefused, PlanMismatch."""
        decoder = (view or View(model)).decoder
        products = _products(decoder, model.graph)
        by_site = {site: product for product in products for site in product.sites}
        anatomy = read_anatomy(decoder)
        if reasons := [reason for edit in self.edits for reason in _misfits(edit, anatomy, by_site)]:
            raise PassRefused(self.name, reasons, "apply the plan to an export of the checkpoint it was made for")
        stored = {edit: by_site[edit.site.parts[0]].dtype for edit in self.edits}
        check_range(self.name, ((edit.site, edit.factors, dtype) for edit, dtype in stored.items()), self.arrays)
        digests = replaced_digests(self.edits, self.written)
        prove([linear for block in decoder.blocks for linear in block.linears if set(linear.sites) & digests.keys()],
              digests, self.source)
        adding = _Adding(model.graph, self.arrays, anatomy)
        owner = {part: edit for edit in self.edits for part in edit.site.parts}
        for product in products:
            if owner.keys() & set(product.sites):
                adding.add(product, owner)
        changes = [Change(str(edit.site), 0, adding.sizes[edit.site], f"rank {edit.rank} beside")
                   for edit in self.edits]
        return Receipt(self.name, self.effect, tuple(changes))


@dataclass(frozen=True)
class _Product:
    """A node that gives the columns of single-role sites, side by side: a linear, or the B of a pair. `x`: what it, or
    the pair's A, reads; `dtype`: the graph's floats."""

    sites: tuple[Site, ...]
    node: ir.Node
    x: ir.Value | None
    dtype: ir.DataType
    interleaved: bool = False


def _products(decoder: Decoder, graph: ir.Graph) -> list[_Product]:
    """Of every linear, in the graph's order."""
    found: list[_Product] = []
    for block in decoder.blocks:
        found += [_Product(linear.sites, linear.node, linear.node.inputs[0], linear.tensor.dtype, linear.interleaved)
                  for linear in block.linears]
        found += [_Product(tuple(Site(block.number, (role,)) for role in few.roles), few.node, few.node.inputs[0],
                           _floats(few.node)) for few in block.few_bits]
        for node in block.nodes:
            inner = node.inputs[0].producer() if node.metadata_props.get(PART) == "B" and node.inputs[0] else None
            if inner is not None:
                found.append(_Product(sites_of(node), node, inner.inputs[0], _floats(node)))
    place = {node: i for i, node in enumerate(graph)}
    return sorted(found, key=lambda product: place[product.node])


def _floats(node: ir.Node) -> ir.DataType:
    """The type of a linear's floats: of its matrix, or of its scales."""
    if (stored := stored_matrix(node)) is not None:
        return stored.tensor.dtype
    parts = stored_as(node)
    scales = parts[1][0].const_value if parts is not None else None
    assert scales is not None
    return scales.dtype


def _misfits(edit: AddLowRank, anatomy: Anatomy, by_site: Mapping[Site, _Product]) -> Iterator[str]:
    """Why no pair can stand beside this site."""
    if missing := [str(part) for part in edit.site.parts if part not in by_site]:
        yield f"{edit.site}: nothing that is read computes {', '.join(missing)}"
        return
    try:
        edit.on(anatomy)
    except ValueError as error:
        yield str(error)
    products = [by_site[part] for part in edit.site.parts]
    if not all(alike(product.x, products[0].x) for product in products):
        yield f"{edit.site}: its roles do not read one input"
    if any(product.interleaved for product in products) and edit.site.role in ("q", "k", "v"):
        yield f"{edit.site}: its weight holds q, k, v head by head: a pair stands beside them together"


@dataclass
class _Adding:
    """Adds pairs in one graph. Keeps every A by its name in the plan, and x A of each site: linears share them."""

    graph: ir.Graph
    arrays: Mapping[str, Array]
    anatomy: Anatomy
    sizes: dict[Site, int] = field(default_factory=dict)
    _bases: dict[str, ir.Value] = field(default_factory=dict)
    _inner: dict[Site, ir.Value] = field(default_factory=dict)

    def add(self, product: _Product, owner: Mapping[Site, AddLowRank]) -> None:
        """The pairs of the product's sites, in one Add right behind it."""
        old, last = product.node.outputs[0], product.node
        results: list[ir.Value] = []
        for edit, roles, span in self._spans(product, owner):
            a, b = self._pair(product, edit, roles, span)
            self.graph.insert_after(last, [node for node in (a, b) if node is not None])
            last = b
            results.append(b.outputs[0])
        if len(results) > 1:
            join = self._node("Concat", results, product, f"{BESIDE}.join", product.sites, old.shape)
            self.graph.insert_after(last, [join])
            last, results = join, [join.outputs[0]]
        uses = list(old.uses())
        total = self._node("Add", [old, *results], product, BESIDE, product.sites, old.shape)
        self.graph.insert_after(last, [total])
        for use in uses:
            use.node.replace_input_with(use.idx, total.outputs[0])

    def _spans(
        self, product: _Product, owner: Mapping[Site, AddLowRank]
    ) -> Iterator[tuple[AddLowRank, tuple[str, ...], tuple[slice, int, int]]]:
        """In order each pair of the product with its roles there, the columns of its B, and how many of zeros come
        before and after: it reaches to where the next one begins, the first from the start, the last to the end."""
        number = product.sites[0].block
        roles = [site.role for site in product.sites]
        owned = {site.role: owner[site] for site in product.sites if site in owner}
        found: list[tuple[AddLowRank, tuple[str, ...], int]] = []
        start = 0
        for together, edit in runs(roles, owned):
            if edit is not None:
                found.append((edit, together, start))
            start += self._width(number, together)
        for i, (edit, together, begin) in enumerate(found):
            end = found[i + 1][2] if i + 1 < len(found) else start
            width, first = self._width(number, together), edit.site.roles.index(together[0])
            column = self._width(number, edit.site.roles[:first])
            yield edit, together, (slice(column, column + width), 0 if i else begin, end - begin - width)

    def _width(self, number: int, roles: Sequence[str]) -> int:
        matrices = self.anatomy.block(number).matrices
        return sum(matrices[role].shape[1] for role in roles)

    def _pair(
        self, product: _Product, edit: AddLowRank, roles: tuple[str, ...], span: tuple[slice, int, int]
    ) -> tuple[ir.Node | None, ir.Node]:
        """The MatMul by A, unless it is there already, and that by B."""
        (name_a, name_b), dtype, axes = edit.factors, product.dtype, product.node.outputs[0].shape
        down: ir.Node | None = None
        if name_a not in self._bases:
            a = lazily(partial(self._factor, name_a, dtype), dtype, (edit.shape[0], edit.rank))
            self._bases[name_a] = self._stored(f"{edit.site}.{BESIDE}.A", a, edit.site)
        if edit.site not in self._inner:
            down = self._node("MatMul", [product.x, self._bases[name_a]], product, f"{BESIDE}.A", edit.site.parts,
                              _with_last(axes, edit.rank))
            self._inner[edit.site] = down.outputs[0]
        columns, before, after = span
        width = before + columns.stop - columns.start + after
        b = lazily(partial(self._factor, name_b, dtype, *span), dtype, (edit.rank, width))
        own = tuple(Site(edit.site.block, (role,)) for role in roles)
        stored = self._stored(f"{edit.site}.{BESIDE}.B", b, edit.site)
        return down, self._node("MatMul", [self._inner[edit.site], stored], product, f"{BESIDE}.B", own,
                                _with_last(axes, width))

    def _factor(
        self, name: str, dtype: ir.DataType, columns: slice = slice(None), before: int = 0, after: int = 0
    ) -> Array:
        found = cast(self.arrays[name], dtype.numpy())[:, columns]
        return np.ascontiguousarray(np.pad(found, ((0, 0), (before, after))))

    def _stored(self, name: str, tensor: ir.TensorProtocol, site: Site) -> ir.Value:
        self.sizes[site] = self.sizes.get(site, 0) + tensor.nbytes
        return add_initializer(self.graph, name, tensor)

    def _node(
        self, op: str, inputs: Sequence[ir.Value | None], product: _Product, part: str, sites: Sequence[Site],
        shape: ir.Shape | None,
    ) -> ir.Node:
        number, roles = sites[0].block, "_".join(site.role for site in sites)
        name = f"{product.node.name}/{roles}/{part.replace('.', '/')}"
        attributes = [ir.AttrInt64("axis", -1)] if op == "Concat" else []
        marks = {MADE_BY: PutBeside.name, SITE: ",".join(map(str, sites)), PART: part, BLOCK: str(number)}
        node = ir.Node("", op, inputs, attributes, name=name, metadata_props=marks)
        output = node.outputs[0]
        output.name, output.type = f"{name}/output_0", ir.TensorType(product.dtype)
        output.shape = ir.Shape(shape) if shape is not None else None
        return node


def _with_last(shape: ir.Shape | None, columns: int) -> ir.Shape | None:
    return None if shape is None else ir.Shape([*shape.dims[:-1], columns])
