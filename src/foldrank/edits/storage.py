"""How a matrix is stored in few bits: for ONNX Runtime's MatMulNBits, or as DequantizeLinear before a plain MatMul.

A plan's numbers are laid out as MatMulNBits reads them, whichever form the graph gets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer
from pydantic.dataclasses import dataclass

from foldrank.edits.base import STRICT, Edit, Phase

Form = Literal["nbits", "qdq"]
"""The operators that read few bits: `nbits` ONNX Runtime's own MatMulNBits and GatherBlockQuantized; `qdq` standard
DequantizeLinear (ONNX, opset 21) before MatMul, which other runtimes and providers take."""

QDQ_BITS = (4, 8)
"""What DequantizeLinear reads: there is no type of 2 bits before opset 25."""


def check_form(form: Form, bits: int, accuracy: int, *, embedding: int | None = None) -> None:
    """Raise ValueError where the form has no such bits or accuracy, or no table of words in `embedding` bits."""
    if form == "nbits":
        return
    if bits not in QDQ_BITS:
        raise ValueError(f"form=qdq: DequantizeLinear reads 4 or 8 bits, not {bits}; take form=nbits")
    if accuracy:
        raise ValueError("form=qdq: DequantizeLinear has no accuracy level, a runtime chooses; leave accuracy out, or "
                         "take form=nbits")
    if embedding == 4:
        raise ValueError("form=qdq: ONNX gathers no rows of 4-bit numbers; take 8 bits for the embedding, or none")


@dataclass(frozen=True, config=STRICT)
class FewBits:
    """How a matrix [in, out] is stored: along `in`, every `block_size` values of a column share a scale, and where not
    `symmetric` a zero point. `accuracy` is MatMulNBits' accuracy_level: 0 computes with the activations as they are, 4
    rounds them to int8 as well; in form `qdq` it is 0, since DequantizeLinear has none and a runtime chooses."""

    bits: Literal[2, 4, 8]
    block_size: Literal[16, 32, 64, 128, 256]
    symmetric: bool
    accuracy: Literal[0, 4]
    form: Form = "nbits"

    def __post_init__(self) -> None:
        check_form(self.form, self.bits, self.accuracy)

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The form is left out where it is `nbits`, the only one of older plans."""
        return {key: value for key, value in write(self).items() if (key, value) != ("form", "nbits")}

    def __str__(self) -> str:
        return f"{self.bits} bits, blocks of {self.block_size}{', QDQ' if self.form == 'qdq' else ''}"

    @property
    def rounds_activations(self) -> bool:
        """Whether products may be taken with activations rounded to int8: where `accuracy` asks for it, and where ONNX
        Runtime makes MatMulNBits of DequantizeLinear and MatMul by itself, at level 4 by default."""
        return bool(self.accuracy) or self.form == "qdq"

    def layout(self, shape: tuple[int, int]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Shapes of what a plan holds of a matrix [in, out]: numbers, scales, zero points."""
        n_in, n_out = shape
        blocks = -(-n_in // self.block_size)
        return ((n_out, blocks, self.block_size * self.bits // 8), (n_out, blocks),
                (n_out, -(-blocks * self.bits // 8)))

    def in_words(self) -> str:
        """`4 bits in blocks of 32`."""
        return f"{self.bits} bits in blocks of {self.block_size}{' (QDQ)' if self.form == 'qdq' else ''}"

    def in_full(self) -> str:
        """With zero points and, where it has one, accuracy."""
        level = f", accuracy {self.accuracy}" if self.form == "nbits" else ""
        return f"{self}{'' if self.symmetric else ', zero points'}{level}"


HAVE_FEW_BITS = ("cpu", "cuda")
"""Providers that compute with MatMulNBits, by their short names; others may take form `qdq`."""

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
        return self.storage.rounds_activations
