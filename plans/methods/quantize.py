"""quantize: what folding and factoring leave is stored in 4 or 8 bits a weight, for ONNX Runtime's MatMulNBits.

Rounding to nearest, in blocks along the input axis (`models/rounding.py`); a pair is rounded factor by factor. It
removes no weights, so `keep` is 1; what it saves are bytes: a weight of 4 bytes becomes bits/8, plus 4/block_size for
the scale. It comes last, and alone it is what a user would otherwise take. Source: ONNX Runtime, contrib operator
MatMulNBits, and onnxruntime.quantization.matmul_nbits_quantizer, which writes the graph's weights.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import BeforeValidator, ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from foldrank.digests import WeightDigest, in_threads
from foldrank.edits import Edit
from foldrank.edits.base import Phase
from foldrank.edits.quantize_head import QuantizeHead
from foldrank.edits.quantize_weight import QuantizeWeight
from foldrank.edits.storage import FewBits
from foldrank.plans.low_rank.factoring import replaced_digests
from foldrank.plans.method import Method, Result, Task
from foldrank.plans.simulate import simulated
from foldrank.sites import Site


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Settings:
    """`accuracy` 4 lets products be taken with activations rounded to int8: on CPUs several times as fast, and as
    coarse as bf16. `head`: the matrix that makes the logits as well; in a small model it is much of what a token reads.
    """

    bits: Annotated[Literal[4, 8], BeforeValidator(int)] = 4
    block_size: Annotated[Literal[16, 32, 64, 128, 256], BeforeValidator(int)] = 32
    symmetric: bool = True
    accuracy: Annotated[Literal[0, 4], BeforeValidator(int)] = 4
    head: bool = False

    @property
    def storage(self) -> FewBits:
        """How every matrix is stored."""
        return FewBits(self.bits, self.block_size, self.symmetric, self.accuracy)


def run(task: Task, settings: Settings) -> Result:
    """Round every weight and every factor of the model as it is now, and its head where that is asked."""
    storage = settings.storage
    sites = [Site(block.number, (role,)) for block in task.decoder.blocks for role in block.roles]
    edits: list[Edit] = in_threads(lambda site: _edit(task, site, storage), sites)
    decoder = task.decoder
    for edit in edits:
        decoder = simulated(edit, decoder, {})
    if settings.head:
        head_IO = decoder.head
        edits.append(QuantizeHead((head_IO.shape[0], head_IO.shape[1]), storage, WeightDigest.of(_array(head_IO))))
        decoder = simulated(edits[-1], decoder, {})
    return Result(decoder, tuple(edits), kept=1.0, predicted={"quantize.bits": settings.bits})


def _edit(task: Task, site: Site, storage: FewBits) -> QuantizeWeight:
    block = task.decoder.block(site.block)
    n_in, n_out = block.weight(site.role).shape
    return QuantizeWeight(site, (n_in, n_out), storage, replaced_digests(task.source.blocks, block, site.roles))


def _array(weight_IO: Tensor) -> np.ndarray:
    return np.ascontiguousarray(weight_IO.cpu().numpy())


METHOD = Method("quantize", Settings, run, phase=Phase.STORAGE)
