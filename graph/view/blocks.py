"""One block of a decoder: linears by role, low-rank pairs already in place, norm parameters, and what kind it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import onnx_ir as ir

from foldrank.edits.base import BRANCHES, Branch
from foldrank.graph.dataflow.cache import KVPair
from foldrank.graph.dataflow.forms import Code, Surroundings, form, in_order, is_small_constant
from foldrank.graph.dialects import Dialect
from foldrank.graph.dialects.modules import ATTENTION_AND_UP
from foldrank.graph.linear.linears import Linear, Pair, Place, initializer_at, pairs_in, stored_matrix, stored_parts
from foldrank.graph.linear.marks import PART, SITE
from foldrank.graph.linear.matrices import Matrix, few_bits
from foldrank.graph.linear.norms import norm_parameters
from foldrank.graph.linear.parts import biases_of, columns_of_parts
from foldrank.model import modules
from foldrank.sites import Site


@dataclass(frozen=True)
class QuantizedLinear:
    """A linear whose weight is stored in few bits: its roles in storage order, `widths` columns each."""

    roles: tuple[str, ...]
    widths: tuple[int, ...]
    matrix: Matrix
    node: ir.Node


@dataclass(frozen=True)
class Block:
    """One decoder layer; nodes, linears and places in the order of its form, so that blocks of one kind correspond.

    `opaque` names linears whose weights are not plain matrices (quantised, for one), `quantised` are the places of what
    such a linear is stored as, `few_bits` tells their roles and shapes, `unread` the roles of those whose shapes cannot
    be told. `others` are the places of its own initializers that are none of all these.
    """

    number: int
    nodes: tuple[ir.Node, ...]
    linears: tuple[Linear, ...]
    pairs: tuple[Pair, ...]
    norms: tuple[Place, ...]
    quantised: tuple[Place, ...]
    others: tuple[Place, ...]
    kv: KVPair | None
    """None where the block has no attention."""
    opaque: tuple[str, ...]
    unread: frozenset[str]
    few_bits: tuple[QuantizedLinear, ...]
    surroundings: Surroundings
    needed: int
    """The first so many nodes are needed by what leaves the block."""

    @cached_property
    def kind(self) -> tuple[Code, ...]:
        """What must be equal for blocks to merge: operators, attributes, wiring, shared inputs, shapes of weights."""
        own = {id(value) for value in self.own_initializers}
        own |= _weights(self.linears, self.norms, self.quantised)
        return form(self.surroundings, self.nodes[: self.needed], own)

    @cached_property
    def by_role(self) -> dict[str, Linear]:
        """Dense linears by each of their roles."""
        return {role: linear for linear in self.linears for role in linear.roles}

    @property
    def past(self) -> tuple[ir.Value, ...]:
        """Inputs of its cache."""
        return self.surroundings.past

    @property
    def present(self) -> tuple[ir.Value, ...]:
        """Outputs of its cache."""
        return self.surroundings.present

    @property
    def own_initializers(self) -> list[ir.Value]:
        """Initializers that only this block reads."""
        return _own(self.nodes)

    @property
    def unknown(self) -> list[str]:
        """Its own initializers that are no weight, bias or norm gain: merging would not know what to do with them."""
        return list(dict.fromkeys(initializer_at(place).name or "" for place in self.others))


def read_block(
    number: int, nodes: Sequence[ir.Node], kv: KVPair | None, geometry: tuple[int, int, int], dialect: Dialect,
    crossing: tuple[tuple[ir.Value, ...], tuple[ir.Value, ...]],
) -> Block:
    """The block with this number, from its nodes in graph order. `geometry`: (heads, KV heads, head size); `crossing`:
    what enters it, and what leaves."""
    past, present = ((), ()) if kv is None else (kv.past, kv.present)
    surroundings = Surroundings(frozenset(nodes), *crossing, past, present)
    order = in_order(surroundings)
    reached = set(order)
    ordered = (*order, *(node for node in nodes if node not in reached))
    linears, opaque, quantised, few, unread = [], [], [], [], set[str]()
    for node, roles in linear_nodes(ordered, dialect):
        if (stored := stored_matrix(node)) is None:
            opaque.append(f"{node.name} ({node.op_type})")
            quantised.extend(stored_parts(node))
            if (matrix := few_bits(node)) is not None:
                widths = role_widths(roles, matrix.shape[1], geometry, columns_of_parts(node))
                few.append(QuantizedLinear(roles, widths, matrix, node))
            else:
                unread.update(roles)
            continue
        columns = stored.shape[1]
        widths = role_widths(roles, columns, geometry, columns_of_parts(node))
        if sum(widths) != columns:
            opaque.append(f"{node.name} ({columns} columns for {', '.join(roles)})")
            unread.update(roles)
            continue
        together = dialect.interleaves(node)
        linears.append(Linear(stored.place, stored.transposed, number, roles, node, widths, biases_of(node), together))
    norms = tuple(norm_parameters(ordered))
    own = {id(value) for value in _own(nodes)} - _weights(linears, norms, quantised)
    others = tuple(
        (node, slot) for node in ordered for slot, value in enumerate(node.inputs)
        if value is not None and id(value) in own and not is_small_constant(value)
    )
    return Block(
        number=number, nodes=ordered, linears=tuple(linears), pairs=pairs_in(nodes), norms=norms,
        quantised=tuple(quantised), others=others, kv=kv, opaque=tuple(opaque),
        unread=frozenset(unread), few_bits=tuple(few), surroundings=surroundings, needed=len(order),
    )


def branches_in(nodes: Sequence[ir.Node], dialect: Dialect) -> frozenset[Branch]:
    """The branches whose linears, or pairs in the place of them, are among these nodes."""
    roles = {role for _, some in linear_nodes(nodes, dialect) for role in some}
    roles |= {role for pair in pairs_in(nodes) for site in pair.sites for role in site.roles}
    return frozenset(branch for branch, own in BRANCHES.items() if roles & set(own))


def linear_nodes(nodes: Sequence[ir.Node], dialect: Dialect) -> list[tuple[ir.Node, tuple[str, ...]]]:
    """Nodes that apply a linear map of a known role, dense or not."""
    return [(node, roles) for node in nodes if (roles := _roles(node, dialect))]


def _roles(node: ir.Node, dialect: Dialect) -> tuple[str, ...] | None:
    if node.metadata_props.get(PART) == "dense":
        return tuple(Site.parse(text).role for text in node.metadata_props[SITE].split(","))
    return None if PART in node.metadata_props else dialect.roles_of(node)


def _weights(linears: Sequence[Linear], norms: Sequence[Place], quantised: Sequence[Place]) -> set[int]:
    """Identities of the initializers that a block is known by."""
    places = [place for linear in linears for place in (linear.place, *linear.biases)]
    return {id(initializer_at(place)) for place in (*places, *norms, *quantised)}


def _own(nodes: Sequence[ir.Node]) -> list[ir.Value]:
    members = set(nodes)
    return [v for node in nodes for v in node.inputs
            if v is not None and v.is_initializer() and all(user in members for user in v.consumers())]


def role_widths(
    roles: tuple[str, ...], columns: int, geometry: tuple[int, int, int], parts: Sequence[int] = ()
) -> tuple[int, ...]:
    """Columns of each role. `parts`: of the result, which tell where an attention and an MLP share one weight."""
    if roles == ATTENTION_AND_UP and len(parts) == 2:
        return (*modules.role_widths(roles[:3], parts[0], geometry), parts[1])
    return modules.role_widths(roles, columns, geometry)
