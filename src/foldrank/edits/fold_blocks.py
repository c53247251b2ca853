"""fold_blocks: several neighbouring blocks become one, a linear combination of their projections."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from foldrank.edits.anatomy import Anatomy
from foldrank.edits.base import STRICT, Edit, Phase, Table, Touch, parts_of
from foldrank.sites import PACKED

Input = Literal["qkv", "o", "gate_up", "down"]
"""What a block's projections read: those of one input may be one matrix in a model or a graph."""

INPUTS: dict[Input, tuple[str, ...]] = {
    "qkv": PACKED["qkv"], "o": ("o",), "gate_up": PACKED["gate_up"], "down": ("down",)}
"""Roles of the projections that read it."""


def read_by(role: str) -> Input:
    """What a role's projection reads."""
    return next(name for name, roles in INPUTS.items() if role in roles)


@dataclass(frozen=True, config=STRICT)
class FoldBlocks(Edit):
    """Block `into` gets the linear combination of the named blocks' projections (and biases); the others leave.

    `by_input`: other coefficients for the projections that read one input. `norms` tells whose norm gains the merged
    block keeps: those of the lowest ("bottom") or highest ("top") block.
    """

    into: int
    blocks: tuple[int, ...]
    coefficients: dict[int, float]
    norms: Literal["bottom", "top"] = "bottom"
    by_input: dict[Input, dict[int, float]] = Field(default_factory=dict, exclude_if=lambda found: not found)
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
        for found in (self.coefficients, *self.by_input.values()):
            if set(found) != set(self.blocks):
                raise ValueError(f"coefficients must name exactly the blocks {self.blocks}")
            if not all(math.isfinite(c) for c in found.values()):
                raise ValueError("coefficients must be finite")

    def of(self, role: str) -> dict[int, float]:
        """Coefficients, by block in ascending order, of the projections of a role."""
        found = self.by_input.get(read_by(role), self.coefficients)
        return {number: found[number] for number in self.blocks}

    @property
    def sources(self) -> tuple[int, ...]:
        """The blocks whose projections enter the combination, ascending."""
        return tuple(b for b in self.blocks if any(found[b] != 0.0 for _, found in self._terms()))

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
        return not self.by_input and [self.coefficients[b] for b in self.sources] == [1.0]

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
        terms = "; ".join(
            (f"{', '.join(INPUTS[name])} " if name else "") + "of "
            + (" + ".join(f"{_factor(found[b])}block {b}" for b in self.blocks if found[b]) or "no block")
            for name, found in self._terms())
        return f"{span} were folded into one: projections {terms}, norms of the {self.norms} block."

    def row(self) -> dict[str, Any]:
        """Its fields."""
        by_input = {name: {str(b): c for b, c in found.items()} for name, found in self.by_input.items()}
        return {"into": self.into, "blocks": list(self.blocks), "norms": self.norms,
                "coefficients": {str(b): c for b, c in self.coefficients.items()},
                **({"by_input": by_input} if by_input else {})}

    def facts(self, hash_of: Callable[[Sequence[str]], str]) -> dict[str, Any]:
        """One, of its block."""
        span = f"{self.blocks[0]}..{self.blocks[-1]} norms {self.norms}"
        weights = f"{self.coefficients}" + "".join(f" {name} {found}" for name, found in self.by_input.items())
        return {f"fold into block.{self.into:02d}": f"{span} weights {weights}"}

    @classmethod
    def table(cls, edits: Sequence[FoldBlocks]) -> Table:
        """A row each."""
        return Table("folds", ("into", "blocks", "weights of", "norms of"), [
            (str(e.into), f"{e.blocks[0]}..{e.blocks[-1]}",
             "; ".join(f"{name and f'{name} '}{' '.join(f'{found[b]:+.4g}*{b}' for b in e.blocks if found[b])}"
                       for name, found in e._terms()), str(e.norm_source)) for e in edits])

    def _terms(self) -> list[tuple[Input | Literal[""], dict[int, float]]]:
        """Coefficients by the input whose projections they are for; one line for all where they are the same."""
        if not self.by_input:
            return [("", self.coefficients)]
        return [(name, self.by_input.get(name, self.coefficients)) for name in INPUTS]


def _factor(share: float) -> str:
    return "" if share == 1 else f"{share:#.3g} × "
