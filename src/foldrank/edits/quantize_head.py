"""quantize_head: the matrix that makes the logits is stored in few bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic.dataclasses import dataclass

from foldrank.digests import WeightDigest
from foldrank.edits.anatomy import Anatomy
from foldrank.edits.base import HEAD, STRICT, Part, Table, Told, Touch
from foldrank.edits.laws import check_head
from foldrank.edits.storage import FewBits, Numbers, Rounding, StorageEdit


@dataclass(frozen=True, config=STRICT)
class QuantizeHead(StorageEdit):
    """The matrix that makes the logits is stored in few bits; an embedding that it was tied to stays as it is."""

    shape: tuple[int, int]
    storage: FewBits
    replaces: WeightDigest
    rounding: Rounding = "nearest"
    held: tuple[Numbers, ...] = ()
    kind: Literal["quantize_head"] = "quantize_head"
    listed: ClassVar[str] = "head"
    counted: ClassVar[str] = "head"

    def __post_init__(self) -> None:
        self.check_held("head")
        if len(self.held) > 1:
            raise ValueError("head: is one matrix")

    @property
    def touch(self) -> Touch:
        """Writes the head."""
        return Touch(writes=frozenset({HEAD}))

    @property
    def replaced(self) -> Mapping[Part, WeightDigest]:
        """Of the head."""
        return {HEAD: self.replaces}

    def on(self, anatomy: Anatomy) -> Anatomy:
        """A head of its own, in few bits."""
        head = check_head(self.shape, anatomy)
        return replace(anatomy, head=replace(head, few_bits=self.storage), tied=False)

    def arrays(self) -> Mapping[str, tuple[int, ...] | None]:
        """Its numbers."""
        found = (numbers.arrays(self.storage, self.shape) for numbers in self.held)
        return {name: shape for named in found for name, shape in named.items()}

    def sentence(self) -> str:
        """In words."""
        return f"The head is stored in {self.storage}."

    @property
    def told(self) -> Told | None:
        """Together."""
        return Told("the head", f"stored in {self.storage.in_words()}", counted=False)

    def row(self) -> dict[str, Any]:
        """How."""
        return {"bits": self.storage.bits, "block_size": self.storage.block_size}

    def facts(self, hash_of: Callable[[Sequence[str]], str]) -> dict[str, Any]:
        """How it is stored."""
        found = {"head stored in": self.storage.in_full()}
        return found | ({"head numbers": hash_of(names)} if (names := list(self.arrays())) else {})

    @classmethod
    def table(cls, edits: Sequence[QuantizeHead]) -> Table:
        """How."""
        return Table("head stored in few bits", ("how",), [(str(e.storage),) for e in edits])
