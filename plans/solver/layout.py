"""What becomes of every block: which neighbours one block stands for, which branch it loses, how wide its MLP stays,
and the rank of each of its sites.

Knows numbers and shapes; no tensors. A layout never changes: every choice gives a new one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from foldrank.edits.base import BRANCHES, Branch
from foldrank.edits.drop_branch import DropBranch
from foldrank.edits.fold_blocks import FoldBlocks
from foldrank.edits.low_rank import rank_limit
from foldrank.sites import Site

Roles = tuple[str, ...]
"""The roles of one site, in storage order."""

GROUPS: tuple[Roles, ...] = (("q", "k", "v"), ("o",), ("gate", "up"), ("down",))
"""Roles that read one input, in the order in which a block applies them."""

OUT: Roles = ("o",)
DOWN: Roles = ("down",)

Shapes = Mapping[Roles, tuple[int, int]]
"""[in, out] of every site of a block."""

Packed = Literal["joint", "split"]
"""Whether roles that read one input are one site, or as many as the model has linears for them."""


@dataclass(frozen=True)
class Span:
    """One surviving block: it stands for blocks low..high, with the weights of `source` (low or high).

    `ranks` holds the sites that became pairs; a site that is not in it is dense. `width`: channels that its MLP keeps;
    None: all. `dropped`: the branch that it loses, if any. A narrower MLP has no pairs: what could leave at no loss has
    left, and what stays is of high rank. `bits`: of the sites stored in few bits.
    """

    low: int
    high: int
    source: int
    ranks: Mapping[Roles, int] = field(default_factory=dict)
    width: int | None = None
    dropped: Branch | None = None
    bits: Mapping[Roles, int] = field(default_factory=dict)

    @property
    def fold(self) -> FoldBlocks | None:
        """The edit that leaves this block; None where it stands for itself alone."""
        if self.low == self.high:
            return None
        blocks = tuple(range(self.low, self.high + 1))
        weights = {number: float(number == self.source) for number in blocks}
        return FoldBlocks(self.low, blocks, weights, "bottom" if self.source == self.low else "top")

    @property
    def drop(self) -> DropBranch | None:
        """The edit that takes its branch; None where it keeps both."""
        return None if self.dropped is None else DropBranch(self.low, self.dropped)

    def narrow(self, width: int | None) -> Span:
        """The span with another width of its MLP, whose sites are dense."""
        return replace(self, width=width, ranks=_beside("mlp", self.ranks))

    def without(self, branch: Branch) -> Span:
        """The span less a branch."""
        return replace(self, dropped=branch, ranks=_beside(branch, self.ranks), bits=_beside(branch, self.bits),
                       width=None if branch == "mlp" else self.width)

    def shapes(self, shapes: Shapes) -> Shapes:
        """[in, out] of the sites it has, of those a whole block has."""
        return {roles: self._shape(roles, shape, shapes) for roles, shape in shapes.items()
                if branch_of(roles) != self.dropped}

    def _shape(self, roles: Roles, shape: tuple[int, int], shapes: Shapes) -> tuple[int, int]:
        if self.width is None or branch_of(roles) != "mlp":
            return shape
        return (self.width, shape[1]) if roles == DOWN else (shape[0], shape[1] * self.width // shapes[DOWN][0])

    def with_ranks(self, ranks: Mapping[Roles, int]) -> Span:
        """The span with other ranks for some sites."""
        return replace(self, ranks={**self.ranks, **ranks})

    def with_bits(self, bits: Mapping[Roles, int]) -> Span:
        """The span with its sites stored so; those left out in floats."""
        return replace(self, bits=dict(bits))

    @property
    def untouched(self) -> bool:
        """Whether it is one block as it was; how its weights are stored does not count."""
        return replace(self, bits={}) == Span(self.low, self.low, self.low)

    def site(self, roles: Roles) -> Site:
        """The site of these roles, named as the surviving block is."""
        return Site(self.low, roles)


Layout = tuple[Span, ...]
"""All surviving blocks, lowest first."""


def branch_of(roles: Roles) -> Branch:
    """The branch of a site."""
    return next(branch for branch, held in BRANCHES.items() if roles[0] in held)


def _beside(branch: Branch, ranks: Mapping[Roles, int]) -> dict[Roles, int]:
    return {roles: rank for roles, rank in ranks.items() if branch_of(roles) != branch}


def attentions(layout: Layout) -> int:
    """How many blocks attend: a decoder needs one."""
    return sum(span.dropped != "attention" for span in layout)


def dense_layout(numbers: tuple[int, ...]) -> Layout:
    """Every block stands for itself, all sites dense."""
    return tuple(Span(number, number, number) for number in numbers)


def numbers_stored(layout: Layout, shapes: Shapes) -> int:
    """Numbers in the weights of all sites."""
    return sum(site_numbers(shape, span.ranks.get(roles))
               for span in layout for roles, shape in span.shapes(shapes).items())


def site_numbers(shape: tuple[int, int], rank: int | None) -> int:
    """Numbers stored by one site: of the pair, or of W where rank is None."""
    return shape[0] * shape[1] if rank is None else rank * sum(shape)


def rank_of_share(shape: tuple[int, int], share: float, align: int) -> int:
    """Largest rank, a multiple of `align` or 1, that stores at most this share of W's numbers; 1 where none does."""
    rank = min(int(share * shape[0] * shape[1] / sum(shape) + 1e-9), rank_limit(*shape))
    return rank // align * align or 1


def merged(layout: Layout, position: int, *, top: bool) -> Layout:
    """The layout with the spans at `position` and above it as one: what became of one of them, and its weights."""
    below, above = layout[position], layout[position + 1]
    kept = above if top else below
    one = replace(kept, low=below.low, high=above.high)
    return (*layout[:position], one, *layout[position + 2 :])


def with_span(layout: Layout, position: int, span: Span) -> Layout:
    """The layout with another span at a position."""
    return (*layout[:position], span, *layout[position + 1 :])


def pairs(layout: Layout) -> Iterator[tuple[Span, Roles, int]]:
    """Every site that became a pair, with its rank."""
    for span in layout:
        for roles, rank in span.ranks.items():
            yield span, roles, rank
