"""How a matrix is stored in few bits, as ONNX Runtime's MatMulNBits reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic.dataclasses import dataclass

from foldrank.edits.base import STRICT, Edit, Phase


@dataclass(frozen=True, config=STRICT)
class FewBits:
    """How a matrix [in, out] is stored: along `in`, every `block_size` values of a column share a scale, and where not
    `symmetric` a zero point (ONNX Runtime's MatMulNBits). `accuracy` is that operator's accuracy_level: 0 computes with
    the activations as they are, 4 rounds them to int8 as well."""

    bits: Literal[2, 4, 8]
    block_size: Literal[16, 32, 64, 128, 256]
    symmetric: bool
    accuracy: Literal[0, 4]

    def __str__(self) -> str:
        return f"{self.bits} bits, blocks of {self.block_size}"

    def layout(self, shape: tuple[int, int]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Shapes of what a matrix [in, out] is stored as: numbers, scales, zero points."""
        n_in, n_out = shape
        blocks = -(-n_in // self.block_size)
        return ((n_out, blocks, self.block_size * self.bits // 8), (n_out, blocks),
                (n_out, -(-blocks * self.bits // 8)))

    def in_words(self) -> str:
        """`4 bits in blocks of 32`."""
        return f"{self.bits} bits in blocks of {self.block_size}"

    def in_full(self) -> str:
        """With zero points and accuracy."""
        return f"{self}{'' if self.symmetric else ', zero points'}, accuracy {self.accuracy}"


HAVE_FEW_BITS = ("cpu", "cuda")
"""Providers that compute with such matrices, by their short names."""

Rounding = Literal["nearest", "gptq"]
"""How numbers are made: to nearest, by whoever applies the plan unless it holds them (its scales were trained beside
them); or so that errors make up for each other, by the planner, whose numbers the plan holds."""


@dataclass(frozen=True, config=STRICT)
class Numbers:
    """A matrix [in, out] in few bits, by names of the plan's arrays, as MatMulNBits reads it: `numbers`, uint8
    [out, blocks, block_size * bits / 8]; `scales`, float32 [out, blocks]; `zeros`, uint8 [out, blocks * bits / 8,
    rounded up], None where symmetric."""

    numbers: str
    scales: str
    zeros: str | None = None

    def arrays(self, storage: FewBits, shape: tuple[int, int] | None) -> Mapping[str, tuple[int, ...] | None]:
        """Its names, with the shapes they must have where the matrix's is known."""
        shapes = (None, None, None) if shape is None else storage.layout(shape)
        named = zip((self.numbers, self.scales, self.zeros), shapes, strict=True)
        return {name: shape for name, shape in named if name is not None}


class StorageEdit(Edit):
    """An edit that stores what is there, a matrix of this `shape` [in, out], in few bits. `held`: the numbers, where
    the planner made them; of a pair those of A and of B. Subclasses are dataclasses, as of every edit."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    shape: tuple[int, int]
    storage: FewBits
    rounding: Rounding
    held: tuple[Numbers, ...]
    phase: ClassVar[Phase] = Phase.STORAGE

    def check_held(self, where: object) -> None:
        """Whether numbers are there where they are planned, as the storage asks. Raises ValueError."""
        if (self.rounding == "gptq" and not self.held) or len(self.held) > 2:
            raise ValueError(f"{where}: rounding {self.rounding} with {len(self.held)} matrices of numbers")
        if any((numbers.zeros is None) != self.storage.symmetric for numbers in self.held):
            raise ValueError(f"{where}: zero points are there where it is not symmetric, and only there")

    def in_bytes(self) -> frozenset[str]:
        """Numbers and zero points."""
        return frozenset(name for found in self.held for name in (found.numbers, found.zeros) if name is not None)

    @property
    def rounds_activations(self) -> bool:
        """As its storage says."""
        return bool(self.storage.accuracy)
