"""quantize: what folding and factoring leave is stored in 4 or 8 bits a weight, for ONNX Runtime's MatMulNBits.

Rounding to nearest, in blocks along the input axis (`models/rounding.py`); a pair is rounded factor by factor. It
removes no weights, so `keep` is 1; what it saves are bytes: a weight of 4 bytes becomes bits/8, plus 4/block_size for
the scale. It comes last, and alone it is what a user would otherwise take. Source: ONNX Runtime, contrib operator
MatMulNBits, and onnxruntime.quantization.matmul_nbits_quantizer, which writes the graph's weights.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import BeforeValidator, ConfigDict
from pydantic.dataclasses import dataclass

from foldrank.digests import in_threads
from foldrank.edits import QuantizeWeight
from foldrank.plans.low_rank.factoring import Pair, replaced, replaced_digests
from foldrank.plans.method import Method, Result, Task
from foldrank.plans.models.decoder import Block
from foldrank.plans.models.rounding import rounded
from foldrank.sites import Site


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Settings:
    """`accuracy` 4 lets products be taken with activations rounded to int8: on CPUs several times as fast, and as
    coarse as bf16."""

    bits: Annotated[Literal[4, 8], BeforeValidator(int)] = 4
    block_size: Annotated[Literal[16, 32, 64, 128, 256], BeforeValidator(int)] = 32
    symmetric: bool = True
    accuracy: Annotated[Literal[0, 4], BeforeValidator(int)] = 4


def run(task: Task, settings: Settings) -> Result:
    """Round every weight and every factor of the model as it is now."""
    sites = [Site(block.number, (role,)) for block in task.decoder.blocks for role in block.roles]
    named = {block.number: block for block in task.decoder.blocks}
    edits = tuple(in_threads(lambda site: _edit(task, named[site.block], site, settings), sites))
    storage = {edit.site: edit for edit in edits}
    decoder = replaced(task.decoder, {site: _pair(pair, storage[site.parts[0]]) for site, pair in task.pairs.items()})
    in_pairs = {part for site in task.pairs for part in site.parts}
    decoder = decoder.with_blocks([
        block.with_weights({
            role: rounded(block.weight(role), storage[site]) for role in block.roles
            if (site := Site(block.number, (role,))) not in in_pairs
        }) for block in decoder.blocks
    ])
    return Result(decoder, edits, kept=1.0, predicted={"quantize.bits": settings.bits})


def _pair(factors: tuple[np.ndarray, np.ndarray], edit: QuantizeWeight) -> Pair:
    a, b = (rounded(torch.from_numpy(factor), edit) for factor in factors)
    return Pair(a, b)


def _edit(task: Task, block: Block, site: Site, settings: Settings) -> QuantizeWeight:
    n_in, n_out = block.weight(site.role).shape
    return QuantizeWeight(
        site, (n_in, n_out), settings.bits, settings.block_size, settings.symmetric, settings.accuracy,
        replaced_digests(task.source.blocks, task.folds.get(site.block), site.block, site.roles),
    )


METHOD = Method("quantize", Settings, run, folds=False, quantizes=True)
