"""The settings of `auto`: its budget, what it may change, and how."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass as settings_dataclass

from foldrank.edits.storage import FewBits, Form, check_form
from foldrank.plans.bits.settings import Accuracy, TableBits
from foldrank.plans.bits.settings import Settings as Storing
from foldrank.plans.solver.layout import Packed


@settings_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Settings:
    """Exactly one of keep, bytes, speedup and of_int4 is given. `fold`, `drop`, `narrow`, `factor`: whether blocks may
    become one, branches leave, MLPs lose channels, matrices become pairs. `align`: of ranks above 1; `width_align`: of
    widths.

    `few_bits`: whether matrices may be stored in 4 or 8 bits, or 2 where `least_bits` says so; what follows says how,
    as for `quantize`, and ranks and widths are multiples of `block_size` then. `of_int4`: a budget with few bits, as a
    share of what the model takes with every matrix of the blocks in 4 bits: of bytes, or of time where a cost table is
    given (that of the dense model, where that is less).

    `packed`: q, k, v and gate, up as one site each (joint), or as the model holds them (split). By default split, and
    joint where a cost table says what products take: one product more is not free.
    """

    keep: Annotated[float, Field(gt=0, le=1)] | None = None
    bytes: Annotated[int, Field(ge=1)] | None = None
    speedup: Annotated[float, Field(ge=1)] | None = None
    cost_table: str | None = None
    dtype: Literal["fp32", "fp16", "bf16"] = "fp32"
    effort: Literal["low", "normal", "high"] = "normal"
    align: Annotated[int, Field(ge=1)] = 4
    width_align: Annotated[int, Field(ge=1)] = 16
    fold: bool = True
    drop: bool = True
    narrow: bool = True
    factor: bool = True
    packed: Packed | None = None
    few_bits: bool = False
    of_int4: Annotated[float, Field(gt=0)] | None = None
    least_bits: Annotated[Literal[2, 4], BeforeValidator(int)] = 4
    block_size: Annotated[Literal[16, 32, 64, 128, 256], BeforeValidator(int)] = 32
    symmetric: bool = True
    form: Form = "nbits"
    accuracy: Accuracy = None
    head_bits: TableBits = 8
    embedding_bits: TableBits = 8

    @property
    def storing(self) -> Storing:
        """How what is stored in few bits is rounded and stored."""
        return Storing(
            block_size=self.block_size, symmetric=self.symmetric, form=self.form, accuracy=self.accuracy,
            head_bits=self.head_bits, embedding_bits=self.embedding_bits)

    @property
    def storages(self) -> dict[int, FewBits]:
        """Ways of storing a matrix besides floats."""
        found = {bits: replace(self.storing.storage, bits=bits) for bits in (2, 4, 8) if bits >= self.least_bits}
        return found if self.stores else {}

    def multiple(self, align: int) -> int:
        """Of ranks or widths."""
        return math.lcm(align, self.block_size) if self.stores else align

    @property
    def stores(self) -> bool:
        """Whether matrices may be stored in few bits."""
        return self.few_bits or self.of_int4 is not None

    @property
    def sites(self) -> Packed:
        """`packed`, or its default."""
        return self.packed or ("split" if self.cost_table is None else "joint")

    def __post_init__(self) -> None:
        if sum(x is not None for x in (self.keep, self.bytes, self.speedup, self.of_int4)) != 1:
            raise ValueError("give exactly one of keep, bytes, speedup, of_int4")
        if self.speedup is not None and self.cost_table is None:
            raise ValueError("speedup needs cost_table=FILE.json, which `foldrank bench --cost-table` measures")
        if self.few_bits and self.keep is not None:
            raise ValueError("few_bits needs bytes or speedup: keep counts weights, however they are stored")
        check_form(self.form, self.least_bits, self.accuracy or 0, embedding=self.embedding_bits)
        if not (self.fold or self.drop or self.narrow or self.factor):
            raise ValueError("nothing is left to choose: one of fold, drop, narrow, factor is to be true")
