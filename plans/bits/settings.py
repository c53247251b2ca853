"""How what is left is stored in few bits, and how it is rounded: the settings of `quantize`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from foldrank.edits.storage import FewBits, Form, check_form
from foldrank.plans.bits.careful import Care
from foldrank.plans.bits.tokens import Tokens
from foldrank.plans.bits.walk import Rounding

_WIDE = (None, "none", "16", "32", 16, 32)
"""What leaves a table in floats."""


def _bits(value: object) -> object:
    return None if value in _WIDE else int(value) if isinstance(value, str) and value.isdecimal() else value


def _level(value: object) -> object:
    return int(value) if isinstance(value, str) and value.isdecimal() else value


Accuracy = Annotated[Literal[0, 4] | None, BeforeValidator(_level)]
BlockSize = Literal[16, 32, 64, 128, 256]
SIZES: tuple[BlockSize, ...] = (256, 128, 64, 32, 16)

Bits = Annotated[Literal[2, 4, 8], BeforeValidator(int)]
TableBits = Annotated[Literal[4, 8] | None, BeforeValidator(_bits)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Settings:
    """`form`: `nbits` for ONNX Runtime's MatMulNBits, `qdq` for standard DequantizeLinear before MatMul, which other
    runtimes and providers take. `accuracy` 4, the default of `nbits`, lets products be taken with activations rounded
    to int8: on CPUs several times as fast, and as coarse as bf16; of `qdq` the runtime chooses. `head_bits`,
    `embedding_bits`: of the matrix that makes the logits and of the table of words; `none` (or 16, 32) leaves them as
    floats. `inputs`, `toward`, `tokens`, `search`, `sweeps`, `fit`: of `rounding=gptq`, as in `bits/walk.py` and
    `bits/careful.py`. `correct_rank`: of pairs of floats beside the blocks' weights, for what rounding lost
    (`bits/correcting.py`); None: no pairs.
    """

    bits: Bits = 4
    block_size: Annotated[BlockSize, BeforeValidator(int)] = 32
    symmetric: bool = True
    form: Form = "nbits"
    accuracy: Accuracy = None
    head_bits: TableBits = 8
    embedding_bits: TableBits = 8
    rounding: Literal["gptq", "nearest"] = "gptq"
    inputs: Literal["sequential", "original"] = "sequential"
    toward: Annotated[float, Field(ge=0, le=1)] = 0.0
    tokens: Tokens = "uniform"
    search: bool = True
    sweeps: Annotated[int, Field(ge=0, le=20)] = 2
    fit: bool = True
    correct_rank: Annotated[int, Field(ge=1)] | None = None

    def __post_init__(self) -> None:
        check_form(self.form, self.bits, self.accuracy or 0, embedding=self.embedding_bits)
        if self.correct_rank is not None and self.rounding == "nearest":
            raise ValueError("correct_rank asks for rounding=gptq: rounding to nearest sees no text that would tell "
                             "what its errors cost")

    @property
    def storage(self) -> FewBits:
        """How every matrix of the blocks is stored."""
        return self.storage_in(self.bits, self.block_size)

    def storage_in(self, bits: Literal[2, 4, 8], block_size: BlockSize) -> FewBits:
        """How a matrix is stored in so many bits, in blocks of that size."""
        level: Literal[0, 4] = 4 if self.form == "nbits" else 0
        return FewBits(bits, block_size, self.symmetric, level if self.accuracy is None else self.accuracy, self.form)

    @property
    def careful(self) -> Rounding:
        """How they are rounded, where not to nearest."""
        care = Care(self.search, self.sweeps, self.fit)
        return Rounding(care, self.toward, self.inputs == "sequential", self.tokens)
