"""quantize_weight: what stands at a site is stored in few bits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic.dataclasses import dataclass

from foldrank.digests import WeightDigest
from foldrank.edits.anatomy import Anatomy, Matrix
from foldrank.edits.base import STRICT, SiteEdit, Table, Told
from foldrank.edits.laws import check_shape
from foldrank.edits.storage import FewBits, Numbers, Rounding, StorageEdit
from foldrank.sites import Site


@dataclass(frozen=True, config=STRICT)
class QuantizeWeight(SiteEdit, StorageEdit):
    """What the other edits leave at a single-role site, a weight or both factors of a pair, is stored in few bits.

    `replaces` digests the source's weight, or what a fold leaves there, as in LowRank. `held`: numbers of the weight,
    or of A and of B's columns; roles of one pair name the same A.
    """

    site: Site
    shape: tuple[int, int]
    storage: FewBits
    replaces: tuple[WeightDigest, ...]
    rounding: Rounding = "nearest"
    held: tuple[Numbers, ...] = ()
    kind: Literal["quantize_weight"] = "quantize_weight"
    listed: ClassVar[str] = "quantized"
    counted: ClassVar[str] = "quantized"

    def __post_init__(self) -> None:
        if len(self.site.roles) != 1 or len(self.replaces) != 1 or min(self.shape) < 1:
            raise ValueError(f"{self.site}: one role, its shape and its digest are asked, not {self.site.roles}")
        self.check_held(self.site)

    def on(self, anatomy: Anatomy) -> Anatomy:
        """The same matrices in few bits: blocks that read one weight go on to read one where it is stored alike."""
        check_shape(self.site, self.shape, anatomy)
        how = f"in {self.storage.in_full()} {' '.join(self.arrays())}"

        def stored(matrix: Matrix) -> Matrix:
            name = None if matrix.stored is None else f"{matrix.stored} {how}"
            return replace(matrix, few_bits=self.storage, stored=name)

        return anatomy.changed(self.site, stored)

    def arrays(self) -> Mapping[str, tuple[int, ...] | None]:
        """Its numbers; a pair's rank, hence its shapes, the edit does not tell."""
        shape = self.shape if len(self.held) == 1 else None
        found = (numbers.arrays(self.storage, shape) for numbers in self.held)
        return {name: wanted for named in found for name, wanted in named.items()}

    def sentence(self) -> str:
        """In words."""
        return f"{self.site}: stored in {self.storage}."

    @property
    def told(self) -> Told | None:
        """Together."""
        return Told("weights", f"stored in {self.storage.in_words()}")

    def row(self) -> dict[str, Any]:
        """Where, and how."""
        return {"site": str(self.site), "bits": self.storage.bits, "block_size": self.storage.block_size}

    def facts(self, hash_of: Callable[[Sequence[str]], str]) -> dict[str, Any]:
        """How it is stored."""
        found = {f"{self.site} stored in": self.storage.in_full()}
        return found | ({f"{self.site} numbers": hash_of(names)} if (names := list(self.arrays())) else {})

    @classmethod
    def table(cls, edits: Sequence[QuantizeWeight]) -> Table:
        """A row for each way of storing."""
        return Table("stored in few bits", ("how", "weights"), [*Counter(str(e.storage) for e in edits).items()])
