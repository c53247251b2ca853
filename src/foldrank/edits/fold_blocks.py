"""fold_blocks: several neighbouring blocks become one, a linear combination of their projections."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar, Literal

from pydantic.dataclasses import dataclass

from foldrank.edits.anatomy import Anatomy
from foldrank.edits.base import STRICT, Edit, Phase, Table, Touch, parts_of


@dataclass(frozen=True, config=STRICT)
class FoldBlocks(Edit):
    """Block `into` gets the linear combination of the named blocks' projections (and biases); the others leave.

    `norms` tells whose norm gains the merged block keeps: those of the lowest ("bottom") or highest ("top") block.
    """

    into: int
    blocks: tuple[int, ...]
    coefficients: dict[int, float]
    norms: Literal["bottom", "top"] = "bottom"
    kind: Literal["fold_blocks"] = "fold_blocks"
    phase: ClassVar[Phase] = Phase.BLOCKS
    listed: ClassVar[str] = "folds"
    counted: ClassVar[str] = "folds"
    provable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if len(self.blocks) < 2 or any(other != one + 1 for one, other in pairwise(self.blocks)):
            raise ValueError(f"blocks {self.blocks} are not two or more neighbours in ascending order")
        if self.blocks[0] < 0 or self.into not in self.blocks:
            raise ValueError(f"into {self.into} is not among blocks {self.blocks}")
        if set(self.coefficients) != set(self.blocks):
            raise ValueError(f"coefficients must name exactly the blocks {self.blocks}")
        if not all(math.isfinite(c) for c in self.coefficients.values()):
            raise ValueError("coefficients must be finite")

    @property
    def sources(self) -> tuple[int, ...]:
        """The blocks whose projections enter the combination, ascending."""
        return tuple(b for b in self.blocks if self.coefficients[b] != 0.0)

    @property
    def leaving(self) -> tuple[int, ...]:
        """The blocks that leave."""
        return tuple(b for b in self.blocks if b != self.into)

    @property
    def norm_source(self) -> int:
        """The block whose norm gains stay."""
        return self.blocks[0] if self.norms == "bottom" else self.blocks[-1]

    @property
    def is_copy(self) -> bool:
        """Whether the merged block is one of the blocks as it stands, but for its norms."""
        return [self.coefficients[b] for b in self.sources] == [1.0]

    @property
    def touch(self) -> Touch:
        """Reads all its blocks, writes one, removes the others."""
        return Touch(parts_of(self.blocks), parts_of([self.into]), parts_of(self.leaving))

    def on(self, anatomy: Anatomy) -> Anatomy:
        """One block of their kind in the place of several."""
        held = [anatomy.block(number) for number in self.blocks]
        sources = [anatomy.block(number) for number in self.sources] or held[:1]
        if odd := [b.number for b in sources if (b.matrices, b.unread) != (sources[0].matrices, sources[0].unread)]:
            raise ValueError(f"blocks {sources[0].number} and {odd[0]} are of different shapes and cannot merge")
        copied = sources[0].number if self.is_copy else None
        made = {role: replace(matrix, stored=None) for role, matrix in sources[0].matrices.items()}
        matrices = sources[0].matrices if copied == self.blocks[0] else made
        merged = replace(sources[0], number=self.into, matrices=matrices, place=held[0].stands_at, copies=copied)
        return anatomy.without(self.leaving).with_block(merged)

    def sentence(self) -> str:
        """`Blocks 5 to 7 were folded into one: projections of block 7, norms of the bottom block.`"""
        first, last = self.blocks[0], self.blocks[-1]
        span = f"Blocks {first} to {last}" if len(self.blocks) > 2 else f"Blocks {first} and {last}"
        terms = [f"{_factor(self.coefficients[b])}block {b}" for b in self.sources]
        return (f"{span} were folded into one: projections of {' + '.join(terms) or 'no block'}, "
                f"norms of the {self.norms} block.")

    def row(self) -> dict[str, Any]:
        """Its fields."""
        return {"into": self.into, "blocks": list(self.blocks), "norms": self.norms,
                "coefficients": {str(b): c for b, c in self.coefficients.items()}}

    def facts(self, hash_of: Callable[[Sequence[str]], str]) -> dict[str, Any]:
        """One, of its block."""
        span = f"{self.blocks[0]}..{self.blocks[-1]} norms {self.norms}"
        return {f"fold into block.{self.into:02d}": f"{span} weights {self.coefficients}"}

    @classmethod
    def table(cls, edits: Sequence[FoldBlocks]) -> Table:
        """A row each."""
        return Table("folds", ("into", "blocks", "weights of", "norms of"), [
            (str(e.into), f"{e.blocks[0]}..{e.blocks[-1]}",
             " ".join(f"{e.coefficients[b]:+g}*{b}" for b in e.sources), str(e.norm_source)) for e in edits])


def _factor(share: float) -> str:
    return "" if share == 1 else f"{share:#.3g} × "
