"""quantize_embedding: the table of words is stored in few bits, and the head with it where the two are one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic.dataclasses import dataclass

from foldrank.digests import WeightDigest
from foldrank.edits.anatomy import Anatomy, Matrix
from foldrank.edits.base import EMBEDDING, HEAD, STRICT, Part, Table, Told, Touch
from foldrank.edits.laws import check_head, check_table
from foldrank.edits.storage import FewBits, Numbers, Rounding, StorageEdit, check_form


@dataclass(frozen=True, config=STRICT)
class QuantizeEmbedding(StorageEdit):
    """The table of words, [width, words] as a head would hold it, is stored in few bits along `width`, in full blocks.

    `head`: it makes the logits too, and stays one table. Numbers are rounded to nearest.
    """

    shape: tuple[int, int]
    storage: FewBits
    replaces: WeightDigest
    head: bool
    rounding: Rounding = "nearest"
    held: tuple[Numbers, ...] = ()
    kind: Literal["quantize_embedding"] = "quantize_embedding"
    listed: ClassVar[str] = "embedding"
    counted: ClassVar[str] = "embedding"

    def __post_init__(self) -> None:
        self.check_held("embedding")
        if self.held:
            raise ValueError("embedding: is rounded to nearest")
        if self.storage.accuracy and not self.head:
            raise ValueError("embedding: reads no activations, so its accuracy is 0")
        check_form(self.storage.form, self.storage.bits, self.storage.accuracy, embedding=self.storage.bits)
        if self.shape[0] % self.storage.block_size:
            raise ValueError(f"embedding: rows of {self.shape[0]} are no whole blocks of {self.storage.block_size}")

    @property
    def stored(self) -> FewBits:
        """Of the table: no activations are read with it."""
        return replace(self.storage, accuracy=0)

    @property
    def rounds_activations(self) -> bool:
        """As the head's storage says, where there is one."""
        return self.head and super().rounds_activations

    @property
    def touch(self) -> Touch:
        """Writes the table."""
        return Touch(writes=frozenset({EMBEDDING, HEAD} if self.head else {EMBEDDING}))

    @property
    def replaced(self) -> Mapping[Part, WeightDigest]:
        """Of the table, and of the head as the same."""
        return dict.fromkeys((EMBEDDING, HEAD) if self.head else (EMBEDDING,), self.replaces)

    def on(self, anatomy: Anatomy) -> Anatomy:
        """The table in few bits; the head with it, and tied to it."""
        check_table(self.shape, anatomy)
        found = replace(anatomy, embedding=self.stored)
        if not self.head:
            return replace(found, tied=False)
        check_head(self.shape, anatomy)
        return replace(found, head=Matrix(self.shape, few_bits=self.storage), tied=True)

    def sentence(self) -> str:
        """In words."""
        also = ", one with the head," if self.head else ""
        return f"The embedding{also} is stored in {self.storage}."

    @property
    def told(self) -> Told | None:
        """Together."""
        subject = "the embedding, one table with the head," if self.head else "the embedding"
        return Told(subject, f"stored in {self.storage.in_words()}", counted=False)

    def row(self) -> dict[str, Any]:
        """How."""
        return {"bits": self.storage.bits, "block_size": self.storage.block_size, "head": self.head}

    def facts(self, hash_of: Callable[[Sequence[str]], str]) -> dict[str, Any]:
        """How it is stored."""
        return {"embedding stored in": self.storage.in_full(), "embedding is the head": self.head}

    @classmethod
    def table(cls, edits: Sequence[QuantizeEmbedding]) -> Table:
        """How."""
        return Table("embedding stored in few bits", ("how", "with the head"),
                     [(str(e.storage), e.head) for e in edits])
