"""add_low_rank: a pair of thin matrices beside what stands at a site, whatever that is: y = x W + (x A) B."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic.dataclasses import dataclass

from foldrank.digests import WeightDigest
from foldrank.edits.anatomy import Anatomy, Beside, Matrix
from foldrank.edits.base import STRICT, BesideEdit, Table, Told
from foldrank.edits.laws import check_digests, check_shape
from foldrank.sites import Site


@dataclass(frozen=True, config=STRICT)
class AddLowRank(BesideEdit):
    """`y` becomes `y + (x @ A) @ B`: A [in, rank], B [rank, out], in the graph's floats. `y` is what the other edits
    leave: of a weight, of one in few bits, or of a pair. `replaces` digests the source's weight, or what a fold leaves
    there, single roles in storage order, as in LowRank.
    """

    site: Site
    shape: tuple[int, int]
    rank: int
    factors: tuple[str, str]
    replaces: tuple[WeightDigest, ...]
    kind: Literal["add_low_rank"] = "add_low_rank"
    listed: ClassVar[str] = "beside"
    counted: ClassVar[str] = "pairs_beside"

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= min(self.shape):
            raise ValueError(f"{self.site}: a pair beside {list(self.shape)} has a rank of 1 to {min(self.shape)}, "
                             f"not {self.rank}")
        check_digests(self.site, self.replaces)

    def on(self, anatomy: Anatomy) -> Anatomy:
        """The site's roles share a pair. A matrix has one beside it at most."""
        check_shape(self.site, self.shape, anatomy)
        pair = Beside(self.rank, self.factors[0])

        def beside(matrix: Matrix) -> Matrix:
            if matrix.beside is not None:
                raise ValueError(f"{self.site}: a pair of rank {matrix.beside.rank} stands beside it already")
            return replace(matrix, beside=pair)

        return anatomy.changed(self.site, beside)

    def arrays(self) -> Mapping[str, tuple[int, ...] | None]:
        """A and B."""
        return {self.factors[0]: (self.shape[0], self.rank), self.factors[1]: (self.rank, self.shape[1])}

    def sentence(self) -> str:
        """In words."""
        return f"{self.site}: a pair of rank {self.rank} beside it."

    @property
    def told(self) -> Told | None:
        """Together."""
        return Told("low-rank pairs", "added beside what stands at their sites")

    def row(self) -> dict[str, Any]:
        """Where, and of which rank."""
        return {"site": str(self.site), "shape": list(self.shape), "rank": self.rank}

    def facts(self, hash_of: Callable[[Sequence[str]], str]) -> dict[str, Any]:
        """Its rank, and its factors' content."""
        return {f"{self.site} rank beside": self.rank, f"{self.site} factors beside": hash_of(self.factors)}

    @classmethod
    def table(cls, edits: Sequence[AddLowRank]) -> Table:
        """A row each."""
        return Table("pairs beside", ("site", "in", "out", "rank", "adds"), [
            (str(e.site), *e.shape, e.rank, f"{e.rank * sum(e.shape) / (e.shape[0] * e.shape[1]):.1%}")
            for e in edits])
