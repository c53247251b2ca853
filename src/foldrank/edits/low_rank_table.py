"""low_rank_table: a pair of thin matrices in the place of the table of words, of the head, or of both as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic.dataclasses import dataclass

from foldrank.digests import WeightDigest
from foldrank.edits.anatomy import Anatomy, Matrix
from foldrank.edits.base import EMBEDDING, HEAD, STRICT, Edit, Part, Phase, Table, Told, Touch
from foldrank.edits.laws import check_head, check_table
from foldrank.edits.low_rank import rank_limit


@dataclass(frozen=True, config=STRICT)
class LowRankTable(Edit):
    """A table [width, words], as a head holds it, becomes A [width, rank] B [rank, words]: a head gives (x A) B, the
    vector of a word is its column of B, turned, times A^T. `of`: what is replaced; "both" leaves one pair for both,
    where they are one table. `replaces` digests the table [width, words]."""

    of: Literal["embedding", "head", "both"]
    shape: tuple[int, int]
    rank: int
    factors: tuple[str, str]
    replaces: WeightDigest
    kind: Literal["low_rank_table"] = "low_rank_table"
    phase: ClassVar[Phase] = Phase.WEIGHTS
    listed: ClassVar[str] = "factored_tables"
    counted: ClassVar[str] = "factored_tables"

    def __post_init__(self) -> None:
        limit = rank_limit(*self.shape) if min(self.shape) > 0 else 0
        if not 1 <= self.rank <= limit:
            raise ValueError(f"{self.subject}: rank {self.rank} saves nothing: {self.shape} needs 1..{limit}")

    @property
    def parts(self) -> tuple[str, ...]:
        """`EMBEDDING`, `HEAD`, or both."""
        return (EMBEDDING, HEAD) if self.of == "both" else (self.of,)

    @property
    def subject(self) -> str:
        """What is replaced, in words."""
        return "the embedding, one table with the head," if self.of == "both" else f"the {self.of}"

    @property
    def touch(self) -> Touch:
        """Writes what it replaces."""
        return Touch(writes=frozenset(self.parts))

    @property
    def replaced(self) -> Mapping[Part, WeightDigest]:
        """Of each."""
        return dict.fromkeys(self.parts, self.replaces)

    def on(self, anatomy: Anatomy) -> Anatomy:
        """Ranks; head and embedding are one only where one pair stands for both."""
        if HEAD in self.parts:
            check_head(self.shape, anatomy)
        if EMBEDDING in self.parts:
            check_table(self.shape, anatomy)
        found = replace(anatomy, tied=self.of == "both")
        if EMBEDDING in self.parts:
            found = replace(found, embedding_rank=self.rank)
        return replace(found, head=Matrix(self.shape, self.rank)) if HEAD in self.parts else found

    def arrays(self) -> Mapping[str, tuple[int, ...] | None]:
        """A and B."""
        return {self.factors[0]: (self.shape[0], self.rank), self.factors[1]: (self.rank, self.shape[1])}

    @property
    def ends(self) -> Mapping[Part, tuple[str, ...]]:
        """A and B, of both the same."""
        return dict.fromkeys(self.parts, self.factors)

    def sentence(self) -> str:
        """In words."""
        said = f"{self.subject} becomes a pair of rank {self.rank} in the place of {list(self.shape)}."
        return said[0].upper() + said[1:]

    @property
    def told(self) -> Told | None:
        """Together."""
        return Told(self.subject, f"replaced by a low-rank pair (rank {self.rank} of {min(self.shape)})", counted=False)

    def row(self) -> dict[str, Any]:
        """What it stands for, and its rank."""
        return {"of": self.of, "shape": list(self.shape), "dtype": "fp32", "rank": self.rank}

    def facts(self, hash_of: Callable[[Sequence[str]], str]) -> dict[str, Any]:
        """Its rank, and its factors' content."""
        return {f"pair of {self.of} rank": self.rank, f"pair of {self.of} factors": hash_of(self.factors)}

    @classmethod
    def table(cls, edits: Sequence[LowRankTable]) -> Table:
        """A row each."""
        return Table("low-rank tables", ("of", "in", "out", "rank", "keeps"), [
            (e.of, *e.shape, e.rank, f"{e.rank * sum(e.shape) / (e.shape[0] * e.shape[1]):.0%}") for e in edits])
