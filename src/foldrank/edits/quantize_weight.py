"""quantize_weight: what stands at a site is stored in few bits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic.dataclasses import dataclass

from foldrank.digests import WeightDigest
from foldrank.edits.anatomy import Anatomy
from foldrank.edits.base import STRICT, Edit, Part, Phase, Table, Told, Touch
from foldrank.edits.laws import check_shape
from foldrank.edits.storage import FewBits
from foldrank.sites import Site


@dataclass(frozen=True, config=STRICT)
class QuantizeWeight(Edit):
    """What the other edits leave at a single-role site, a weight or both factors of a pair, is stored in few bits.

    `replaces` digests the source's weight, or what a fold leaves there, as in LowRank.
    """

    site: Site
    shape: tuple[int, int]
    storage: FewBits
    replaces: tuple[WeightDigest, ...]
    kind: Literal["quantize_weight"] = "quantize_weight"
    phase: ClassVar[Phase] = Phase.STORAGE
    listed: ClassVar[str] = "quantized"
    counted: ClassVar[str] = "quantized"

    def __post_init__(self) -> None:
        if len(self.site.roles) != 1 or len(self.replaces) != 1 or min(self.shape) < 1:
            raise ValueError(f"{self.site}: one role, its shape and its digest are asked, not {self.site.roles}")

    @property
    def touch(self) -> Touch:
        """Writes its site."""
        return Touch(writes=frozenset(self.site.parts))

    @property
    def replaced(self) -> Mapping[Part, WeightDigest]:
        """Of each role."""
        return dict(zip(self.site.parts, self.replaces, strict=True))

    def on(self, anatomy: Anatomy) -> Anatomy:
        """The same matrices in few bits."""
        check_shape(self.site, self.shape, anatomy)
        return anatomy.changed(self.site, lambda _role, matrix: replace(matrix, few_bits=self.storage))

    @property
    def rounds_activations(self) -> bool:
        """As its storage says."""
        return bool(self.storage.accuracy)

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
        return {f"{self.site} stored in": self.storage.in_full()}

    @classmethod
    def table(cls, edits: Sequence[QuantizeWeight]) -> Table:
        """A row for each way of storing."""
        return Table("stored in few bits", ("how", "weights"), [*Counter(str(e.storage) for e in edits).items()])
