"""Anatomy: what a decoder is made of, without a number in it. Whoever tells of structure reads it.

A checkpoint has one (`foldrank.model.anatomy`), a graph (`foldrank.graph.anatomy`) and PyTorch's modules
(`foldrank.plans.reference`), and a plan says which one it leaves (`Plan.anatomy`). That these agree is what proves that
an export left nothing out, and that no edit was left out or made by half. Knows no kind of edit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from foldrank.edits.base import BRANCHES, Branch
from foldrank.edits.storage import FewBits
from foldrank.sites import Site


@dataclass(frozen=True)
class Beside:
    """A pair whose product is added to what a matrix gives: its rank, and the name of its A, which is not compared."""

    rank: int
    basis: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Matrix:
    """A linear map of one role: its shape [in, out], the rank of the pair in its place, and in which few bits it is
    stored (in words, where no edit stores in that way); None where there is no pair, and where numbers are floats.
    `beside`: the pair beside it, in floats; None where there is none.

    What differs between a plan and its graph is not compared. `basis` names the A of the pair: those of one name read
    one A. `stored` names the weight: where matrices of one role and name are in several blocks, these read one weight
    (`Anatomy.owners`). `packed`: the roles that lie with this one in one weight, in storage order; `dtype`: what that
    is stored as.
    """

    shape: tuple[int, int]
    rank: int | None = None
    few_bits: FewBits | str | None = None
    beside: Beside | None = None
    basis: str | None = field(default=None, compare=False)
    stored: str | None = field(default=None, compare=False)
    packed: tuple[str, ...] = field(default=(), compare=False)
    dtype: str = field(default="", compare=False)

    def __str__(self) -> str:
        pair = f" of rank {self.rank}" if self.rank is not None else ""
        beside = f", a pair of rank {self.beside.rank} beside it" if self.beside is not None else ""
        return f"{list(self.shape)}{pair}, {self.few_bits or 'floats'}{beside}"


@dataclass(frozen=True)
class BlockAnatomy:
    """One block by its source number; its matrices by role, those of a branch that left are not there. `unread`: roles
    whose matrices are there in a form that is not read.
    `place`: the source number of the block whose place in the stack it has, hence its mask and its entries in configs;
    None: its own. `copies`: that of the block whose weights it took over; None: its own, or several. A graph tells
    neither.
    """

    number: int
    matrices: Mapping[str, Matrix]
    place: int | None = field(default=None, compare=False)
    copies: int | None = field(default=None, compare=False)
    unread: frozenset[str] = frozenset()

    @property
    def branches(self) -> tuple[Branch, ...]:
        """Its branches, in order."""
        held = {*self.matrices, *self.unread}
        return tuple(branch for branch, roles in BRANCHES.items() if held & set(roles))

    @property
    def stands_at(self) -> int:
        """Source number of the block whose place it has."""
        return self.number if self.place is None else self.place

    @property
    def has_cache(self) -> bool:
        """Whether it has a KV pair."""
        return "attention" in self.branches


@dataclass(frozen=True)
class Anatomy:
    """Blocks from the input on; the head, None where it is no plain matrix; whether it is the embedding table, and in
    which few bits that is stored (in words, where no edit stores so), None where it is of floats; `embedding_rank`: of
    the pair in its place, which a tied head reads too. `rotated`: the width of the square matrix that turns the stream
    where it enters the blocks, and back behind them (in words, where it is not so by half), None where it is as the
    source has it. `centred`: whether the stream's mean is taken away where it enters the blocks, and by no norm of
    theirs any more (in words, where that is so by half)."""

    blocks: tuple[BlockAnatomy, ...]
    head: Matrix | None
    tied: bool
    heads: int
    kv_heads: int
    head_size: int
    embedding: FewBits | str | None = None
    rotated: int | str | None = None
    centred: bool | str = False
    embedding_rank: int | None = None
    by_number: Mapping[int, BlockAnatomy] = field(init=False, repr=False, compare=False)
    owners: Mapping[Site, Site] = field(init=False, repr=False)
    """Of every single-role site that reads a weight which a block before it reads too, the first that does."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_number", {block.number: block for block in self.blocks})
        object.__setattr__(self, "owners", _owners(self.blocks))

    @property
    def numbers(self) -> tuple[int, ...]:
        """Source numbers of its blocks."""
        return tuple(block.number for block in self.blocks)

    @property
    def cached(self) -> tuple[int, ...]:
        """Source numbers of the blocks that have a KV pair; a pair's own number is its place here."""
        return tuple(block.number for block in self.blocks if block.has_cache)

    @property
    def mlp_width(self) -> int | None:
        """Channels of an MLP; None where blocks differ, or where one has none that is read."""
        downs = [block.matrices.get("down") for block in self.blocks]
        widths = {None if down is None else down.shape[0] for down in downs}
        return widths.pop() if len(widths) == 1 else None

    def block(self, number: int) -> BlockAnatomy:
        """A block. Raises ValueError where there is none."""
        if number not in self.by_number:
            raise ValueError(f"block {number} is not there")
        return self.by_number[number]

    def matrix(self, site: Site) -> Matrix:
        """The matrix of a single-role site. Raises ValueError where there is none."""
        found = self.block(site.block).matrices.get(site.role)
        if found is None:
            raise ValueError(f"{site}: the block has no such matrix")
        return found

    def without(self, numbers: Iterable[int]) -> Anatomy:
        """Less these blocks."""
        gone = frozenset(numbers)
        return replace(self, blocks=tuple(block for block in self.blocks if block.number not in gone))

    def with_block(self, block: BlockAnatomy) -> Anatomy:
        """With this block in the place of the one of its number."""
        self.block(block.number)
        return replace(self, blocks=tuple(block if b.number == block.number else b for b in self.blocks))

    def without_roles(self, number: int, roles: Iterable[str]) -> Anatomy:
        """Less these roles of a block; a block that has none left is gone. Raises ValueError where it is not there."""
        block, gone = self.block(number), frozenset(roles)
        kept = {role: matrix for role, matrix in block.matrices.items() if role not in gone}
        left = replace(block, matrices=kept, unread=block.unread - gone)
        return self.with_block(left) if left.branches else self.without([number])

    def changed(self, site: Site, change: Callable[[Matrix], Matrix]) -> Anatomy:
        """With other matrices at a site's roles, each what `change` makes of it. Raises ValueError where the
        site is not there."""
        for part in site.parts:
            self.matrix(part)
        block = self.block(site.block)
        found = {role: change(matrix) if role in site.roles else matrix
                 for role, matrix in block.matrices.items()}
        return self.with_block(replace(block, matrices=found))

    def differences(self, other: Anatomy) -> Iterator[str]:
        """How the other one differs, block by block."""
        if self.numbers != other.numbers:
            yield f"blocks {_listed(self.numbers)} against {_listed(other.numbers)}"
            return
        for one, two in zip(self.blocks, other.blocks, strict=True):
            for role in dict.fromkeys((*one.matrices, *two.matrices)):
                mine, its = one.matrices.get(role), two.matrices.get(role)
                if mine != its:
                    yield f"block.{one.number:02d}.{role}: {mine or 'nothing'} against {its or 'nothing'}"
            if one.unread != two.unread:
                unread = [", ".join(sorted(block.unread)) or "nothing" for block in (one, two)]
                yield f"block.{one.number:02d}: {' against '.join(unread)} in a form that is not read"
        for site in sorted({*self.owners, *other.owners}):
            if self.owners.get(site) != other.owners.get(site):
                yield f"{site}: reads {' against '.join(f'that of {a.owners.get(site, site)}' for a in (self, other))}"
        for name in ("head", "tied", "heads", "kv_heads", "head_size", "embedding", "embedding_rank", "rotated",
                     "centred"):
            if getattr(self, name) != getattr(other, name):
                yield f"{name}: {getattr(self, name)} against {getattr(other, name)}"


def _owners(blocks: tuple[BlockAnatomy, ...]) -> dict[Site, Site]:
    first: dict[tuple[str, str], Site] = {}
    found: dict[Site, Site] = {}
    for block in blocks:
        for role, matrix in block.matrices.items():
            site = Site(block.number, (role,))
            if matrix.stored is not None and (owner := first.setdefault((matrix.stored, role), site)) != site:
                found[site] = owner
    return found


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers)) or "none"
