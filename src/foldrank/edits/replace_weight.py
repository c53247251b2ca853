"""replace_weight: another dense weight of the same shape, after recovery training or to make up for an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic.dataclasses import dataclass

from foldrank.digests import WeightDigest
from foldrank.edits.anatomy import Anatomy
from foldrank.edits.base import STRICT, Table, Told, WeightEdit
from foldrank.edits.laws import check_digests
from foldrank.sites import Site


@dataclass(frozen=True, config=STRICT)
class ReplaceWeight(WeightEdit):
    """The site's weight becomes the named tensor [in, out]. `replaces` as in LowRank."""

    site: Site
    tensor: str
    replaces: tuple[WeightDigest, ...]
    kind: Literal["replace_weight"] = "replace_weight"
    listed: ClassVar[str] = "replaced"
    counted: ClassVar[str] = "replaced"

    def __post_init__(self) -> None:
        check_digests(self.site, self.replaces)

    def on(self, anatomy: Anatomy) -> Anatomy:
        """The same shapes, as floats."""
        return anatomy.changed(self.site, lambda matrix: replace(matrix, few_bits=None, stored=None))

    def arrays(self) -> Mapping[str, tuple[int, ...] | None]:
        """The tensor; its shape is the site's."""
        return {self.tensor: None}

    def sentence(self) -> str:
        """In words."""
        return f"{self.site}: another weight of the same shape."

    @property
    def told(self) -> Told | None:
        """Together."""
        return Told("weights", "replaced by others of the same shape")

    def row(self) -> str:
        """The site."""
        return str(self.site)

    def facts(self, hash_of: Callable[[Sequence[str]], str]) -> dict[str, Any]:
        """Its content."""
        return {f"{self.site} replaced by": hash_of([self.tensor])}

    @classmethod
    def table(cls, edits: Sequence[ReplaceWeight]) -> Table:
        """How many."""
        return Table("new weights of the same shape", ("weights",), [(len(edits),)])
