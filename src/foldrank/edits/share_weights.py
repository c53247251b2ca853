"""share_weights: a block reads matrices of another block, which are stored once; norms and biases stay its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic.dataclasses import dataclass

from foldrank.edits.anatomy import Anatomy, Matrix
from foldrank.edits.base import STRICT, Edit, Phase, Table, Touch, parts_of
from foldrank.sites import ROLES, Site


@dataclass(frozen=True, config=STRICT)
class ShareWeights(Edit):
    """The `block` reads what stands in block `of` at these roles, as the edits before left it: one weight, stored once,
    read by both. A pair beside it comes later and is each block's own."""

    block: int
    of: int
    roles: tuple[str, ...]
    kind: Literal["share_weights"] = "share_weights"
    phase: ClassVar[Phase] = Phase.SHARING
    listed: ClassVar[str] = "shared"
    counted: ClassVar[str] = "shared"

    def __post_init__(self) -> None:
        if min(self.block, self.of) < 0 or self.block == self.of:
            raise ValueError(f"block {self.block} cannot read the weights of block {self.of}")
        if not self.roles or self.roles != tuple(role for role in ROLES if role in self.roles):
            raise ValueError(f"block {self.block}: roles {self.roles} are not some of {', '.join(ROLES)} in order")

    @property
    def borrows(self) -> Mapping[Site, Site]:
        """Of each role, in order."""
        return {Site(self.block, (role,)): Site(self.of, (role,)) for role in self.roles}

    @property
    def touch(self) -> Touch:
        """Reads both blocks' weights, since the source must hold what leaves too; writes one's."""
        own = parts_of([self.block], self.roles)
        return Touch(own | parts_of([self.of], self.roles), own)

    def on(self, anatomy: Anatomy) -> Anatomy:
        """One weight at both blocks' roles. It must be a whole one, of floats: what is stored in few bits or made of
        pairs cannot be shared yet."""
        for site, lender in self.borrows.items():
            matrix, lent = anatomy.matrix(site), anatomy.matrix(lender)
            if odd := next((m for m in (matrix, lent) if m != Matrix(m.shape)), None):
                raise ValueError(f"{site}: cannot read the weight of {lender}: {odd} is no whole matrix of floats")
            if matrix.shape != lent.shape:
                raise ValueError(f"{site}: is {list(matrix.shape)} and cannot read {lender}, {list(lent.shape)}")
            named = partial(replace, stored=lent.stored or str(lender))
            anatomy = anatomy.changed(lender, named).changed(site, named)
        return anatomy

    def sentence(self) -> str:
        """`Block 5 reads the weights of block 4.`"""
        return f"Block {self.block} reads the weights of block {self.of}{self._which}."

    @property
    def _which(self) -> str:
        return "" if set(ROLES) - {"gate"} <= set(self.roles) else f" ({', '.join(self.roles)})"

    @property
    def beside(self) -> str:
        """`as 4`."""
        return f"as {self.of}"

    @classmethod
    def gist(cls, edits: Sequence[ShareWeights]) -> str:
        """`Blocks 1, 3 read weights of blocks 0, 2, which are stored once: fewer bytes to store, as many to read.`"""
        rows = cls.table(edits).rows
        readers, lenders = (", ".join(dict.fromkeys(str(row[place]) for row in rows)) for place in (0, 1))
        return (f"Blocks {readers} read weights of blocks {lenders}, which are stored once: fewer bytes to store, as "
                "many to read for a token.")

    def row(self) -> dict[str, Any]:
        """Its fields."""
        return {"block": self.block, "of": self.of, "roles": list(self.roles)}

    def facts(self, hash_of: Callable[[Sequence[str]], str]) -> dict[str, Any]:
        """One, of its block."""
        return {f"block.{self.block:02d} {' '.join(self.roles)}": f"of block.{self.of:02d}"}

    @classmethod
    def table(cls, edits: Sequence[ShareWeights]) -> Table:
        """A row each."""
        return Table("shared weights", ("block", "reads block", "roles"), [
            (str(e.block), str(e.of), " ".join(e.roles)) for e in edits])
