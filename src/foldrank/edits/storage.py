"""How a matrix is stored in few bits, as ONNX Runtime's MatMulNBits reads it."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic.dataclasses import dataclass

from foldrank.edits.base import STRICT, Edit, Phase


@dataclass(frozen=True, config=STRICT)
class FewBits:
    """How a matrix [in, out] is stored: along `in`, every `block_size` values of a column share a scale, and where not
    `symmetric` a zero point (ONNX Runtime's MatMulNBits). `accuracy` is that operator's accuracy_level: 0 computes with
    the activations as they are, 4 rounds them to int8 as well."""

    bits: Literal[4, 8]
    block_size: Literal[16, 32, 64, 128, 256]
    symmetric: bool
    accuracy: Literal[0, 4]

    def __str__(self) -> str:
        return f"{self.bits} bits, blocks of {self.block_size}"

    def in_words(self) -> str:
        """`4 bits in blocks of 32`."""
        return f"{self.bits} bits in blocks of {self.block_size}"

    def in_full(self) -> str:
        """With zero points and accuracy."""
        return f"{self}{'' if self.symmetric else ', zero points'}, accuracy {self.accuracy}"


class StorageEdit(Edit):
    """An edit that stores what is there in few bits."""

    storage: FewBits
    phase: ClassVar[Phase] = Phase.STORAGE

    @property
    def rounds_activations(self) -> bool:
        """As its storage says."""
        return bool(self.storage.accuracy)
