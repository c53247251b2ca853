"""low_rank: a pair of thin matrices in the place of a weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic.dataclasses import dataclass

from foldrank.digests import WeightDigest
from foldrank.edits.anatomy import Anatomy
from foldrank.edits.base import STRICT, Table, Told, WeightEdit
from foldrank.edits.laws import check_digests, check_shape
from foldrank.sites import Site


def rank_limit(n_in: int, n_out: int) -> int:
    """Largest rank at which a pair A [in, rank], B [rank, out] holds fewer numbers than W [in, out]; may be 0."""
    return (n_in * n_out - 1) // (n_in + n_out)


@dataclass(frozen=True, config=STRICT)
class LowRank(WeightEdit):
    """`x @ W` becomes `(x @ A) @ B`: A [in, rank], B [rank, out]. `replaces` digests W, single roles in storage order.

    Where a fold of the same plan writes the site, W is what the fold leaves there.
    """

    site: Site
    shape: tuple[int, int]
    rank: int
    factors: tuple[str, str]
    replaces: tuple[WeightDigest, ...]
    kind: Literal["low_rank"] = "low_rank"
    listed: ClassVar[str] = "sites"
    counted: ClassVar[str] = "pairs"

    def __post_init__(self) -> None:
        limit = rank_limit(*self.shape)
        if min(self.shape) < 1 or not 1 <= self.rank <= limit:
            raise ValueError(f"{self.site}: rank {self.rank} saves nothing: {self.shape} needs 1..{limit}")
        check_digests(self.site, self.replaces)

    def on(self, anatomy: Anatomy) -> Anatomy:
        """The site's roles share a pair."""
        check_shape(self.site, self.shape, anatomy)
        pair = partial(replace, rank=self.rank, few_bits=None, basis=self.factors[0], stored=None)
        return anatomy.changed(self.site, pair)

    def arrays(self) -> Mapping[str, tuple[int, ...] | None]:
        """A and B."""
        return {self.factors[0]: (self.shape[0], self.rank), self.factors[1]: (self.rank, self.shape[1])}

    def sentence(self) -> str:
        """In words."""
        return f"{self.site}: a pair of rank {self.rank} in the place of {list(self.shape)}."

    @property
    def ranked(self) -> tuple[int, tuple[int, int]] | None:
        """Its rank."""
        return self.rank, self.shape

    @property
    def told(self) -> Told | None:
        """Together."""
        return Told("weights", "replaced by low-rank pairs")

    def row(self) -> dict[str, Any]:
        """As a graph's sites are listed."""
        return {"site": str(self.site), "shape": list(self.shape), "dtype": "fp32", "rank": self.rank}

    def facts(self, hash_of: Callable[[Sequence[str]], str]) -> dict[str, Any]:
        """Its rank, and its factors' content."""
        return {f"{self.site} rank": self.rank, f"{self.site} factors": hash_of(self.factors)}

    @classmethod
    def table(cls, edits: Sequence[LowRank]) -> Table:
        """A row each."""
        return Table("low rank", ("site", "in", "out", "rank", "keeps"), [
            (str(e.site), *e.shape, e.rank, f"{e.rank * sum(e.shape) / (e.shape[0] * e.shape[1]):.0%}")
            for e in edits])
