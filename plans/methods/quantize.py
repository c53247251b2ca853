"""quantize: what is left is stored in 4 or 8 bits a weight, for ONNX Runtime's MatMulNBits and GatherBlockQuantized.

Weights and both factors of pairs are rounded on what the model as rounded so far gives them (`bits/walk.py`), or each
by itself to nearest (`models/rounding.py`). It removes no weights, so `keep` is 1; what it saves are bytes: a weight of
4 bytes becomes bits/8, plus 4/block_size for the scale. Head and embedding are rounded to nearest, in 8 bits by
default; where they are one table, they stay one. It comes last, and `rounding=nearest` alone is what a user would
otherwise take. Source: ONNX Runtime, docs/ContribOperators.md; of the rounding: `bits/gptq.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from foldrank.digests import WeightDigest, in_threads
from foldrank.edits import Edit
from foldrank.edits.base import Phase
from foldrank.edits.quantize_embedding import QuantizeEmbedding
from foldrank.edits.quantize_head import QuantizeHead
from foldrank.edits.quantize_weight import QuantizeWeight
from foldrank.edits.storage import FewBits
from foldrank.plans.bits.careful import Care
from foldrank.plans.bits.walk import Rounded, Rounding
from foldrank.plans.low_rank.factoring import replaced_digests
from foldrank.plans.method import Method, Result, Task
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.simulate import apply_edits
from foldrank.sites import Site

_WIDE = (None, "none", "16", "32", 16, 32)
"""What leaves a table in floats."""


def _bits(value: object) -> object:
    return None if value in _WIDE else int(value) if isinstance(value, str) and value.isdecimal() else value


BlockSize = Literal[16, 32, 64, 128, 256]
_SIZES: tuple[BlockSize, ...] = (256, 128, 64, 32, 16)

Bits = Annotated[Literal[4, 8], BeforeValidator(int)]
TableBits = Annotated[Literal[4, 8] | None, BeforeValidator(_bits)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Settings:
    """`accuracy` 4 lets products be taken with activations rounded to int8: on CPUs several times as fast, and as
    coarse as bf16. `head_bits`, `embedding_bits`: of the matrix that makes the logits and of the table of words; `none`
    (or 16, 32) leaves them as floats. `inputs`, `toward`, `search`, `sweeps`, `fit`: of `rounding=gptq`, as in
    `bits/walk.py` and `bits/careful.py`.
    """

    bits: Bits = 4
    block_size: Annotated[BlockSize, BeforeValidator(int)] = 32
    symmetric: bool = True
    accuracy: Annotated[Literal[0, 4], BeforeValidator(int)] = 4
    head_bits: TableBits = 8
    embedding_bits: TableBits = 8
    rounding: Literal["gptq", "nearest"] = "gptq"
    inputs: Literal["sequential", "original"] = "sequential"
    toward: Annotated[float, Field(ge=0, le=1)] = 0.0
    search: bool = True
    sweeps: Annotated[int, Field(ge=0, le=20)] = 2
    fit: bool = True

    @property
    def storage(self) -> FewBits:
        """How every matrix of the blocks is stored."""
        return FewBits(self.bits, self.block_size, self.symmetric, self.accuracy)

    @property
    def careful(self) -> Rounding:
        """How they are rounded, where not to nearest."""
        care = Care(self.search, self.sweeps, self.fit)
        return Rounding(care, self.toward, self.inputs == "sequential")


def run(task: Task, settings: Settings) -> Result:
    """Round every weight and every factor of the model as it is now, its head and its table of words."""
    sites = [Site(block.number, (role,)) for block in task.decoder.blocks for role in block.roles]
    found = Rounded({}, {})
    if settings.rounding == "gptq":
        found = settings.careful.of(task, dict.fromkeys(sites, settings.storage))
    edits: list[Edit] = in_threads(lambda site: _edit(task, site, settings, found), sites)
    edits += tables(task.decoder, settings)
    decoder = apply_edits(edits, task.decoder, found.arrays)
    return Result(decoder, tuple(edits), kept=1.0, arrays=found.arrays, predicted={"quantize.bits": settings.bits})


def _edit(task: Task, site: Site, settings: Settings, found: Rounded) -> QuantizeWeight:
    block = task.decoder.block(site.block)
    n_in, n_out = block.weight(site.role).shape
    return QuantizeWeight(
        site, (n_in, n_out), settings.storage, replaced_digests(task.source.blocks, block, site.roles),
        settings.rounding, found.held.get(site, ()))


def tables(decoder: Decoder, settings: Settings) -> list[Edit]:
    """Edits of the head and the table of words: one, where they are one table and are stored alike."""
    head = _storage(settings, settings.head_bits, _full(settings, len(decoder.head)) or settings.block_size)
    table = _storage(settings, settings.embedding_bits, _full(settings, len(decoder.table)))
    one = decoder.tied and head == table
    edits: list[Edit] = []
    if head is not None and not one:
        edits.append(QuantizeHead(_shape(decoder.head), head, WeightDigest.of(_array(decoder.head))))
    if table is not None:
        stored = table if one else replace(table, accuracy=0)
        edits.append(QuantizeEmbedding(_shape(decoder.table), stored, WeightDigest.of(_array(decoder.table)), one))
    return edits


def _storage(settings: Settings, bits: Literal[4, 8] | None, size: BlockSize | None) -> FewBits | None:
    return None if bits is None or size is None else FewBits(bits, size, settings.symmetric, settings.accuracy)


def _full(settings: Settings, width: int) -> BlockSize | None:
    """The largest block that fills rows of a table, as GatherBlockQuantized wants them; None where none does."""
    return next((size for size in _SIZES if size <= settings.block_size and width % size == 0), None)


def _shape(table_CV: Tensor) -> tuple[int, int]:
    return table_CV.shape[0], table_CV.shape[1]


def _array(weight_IO: Tensor) -> np.ndarray:
    return np.ascontiguousarray(weight_IO.cpu().numpy())


METHOD = Method("quantize", Settings, run, phase=Phase.STORAGE)
