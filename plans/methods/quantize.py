"""quantize: what is left is stored in 4 or 8 bits a weight, for ONNX Runtime's MatMulNBits and GatherBlockQuantized, or
(`form=qdq`) as DequantizeLinear before plain MatMul and behind Gather.

Weights and both factors of pairs are rounded on what the model as rounded so far gives them (`bits/walk.py`), or each
by itself to nearest (`models/rounding.py`). It removes no weights, so `keep` is 1; what it saves are bytes: a weight of
4 bytes becomes bits/8, plus 4/block_size for the scale. Head and embedding are rounded to nearest, in 8 bits by
default; where they are one table, they stay one. `correct_rank` adds pairs of floats beside what is stored in the
blocks, for what rounding lost (`bits/correcting.py`). It comes last, and `rounding=nearest` alone is what a user would
otherwise take. Source: ONNX Runtime, docs/ContribOperators.md; of the rounding: `bits/gptq.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
from torch import Tensor

from foldrank.digests import WeightDigest, in_threads
from foldrank.edits import Edit
from foldrank.edits.add_low_rank import AddLowRank
from foldrank.edits.base import EMBEDDING, HEAD, Phase
from foldrank.edits.quantize_embedding import QuantizeEmbedding
from foldrank.edits.quantize_head import QuantizeHead
from foldrank.edits.quantize_weight import QuantizeWeight
from foldrank.edits.storage import FewBits, StorageEdit
from foldrank.plans.bits.correcting import corrected_sites, names_of
from foldrank.plans.bits.settings import SIZES, BlockSize, Settings
from foldrank.plans.bits.walk import Rounded
from foldrank.plans.low_rank.factoring import replaced_digests
from foldrank.plans.method import Method, Result, Task
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.simulate import apply_edits
from foldrank.plans.solver.costs import stored_bytes
from foldrank.sites import Site

WIDE = 64
"""Values that share a scale in a table of 8 bits: 8.5 bits a value in all, as llama.cpp's Q8_0 takes."""


def run(task: Task, settings: Settings) -> Result:
    """Round every weight and every factor of the model as it is now, its head and its table of words."""
    sites = [Site(block.number, (role,)) for block in task.decoder.blocks for role in block.roles]
    found = stored(task, settings, dict.fromkeys(sites, settings.storage))
    return replace(found, predicted={"quantize.bits": settings.bits})


def stored(task: Task, settings: Settings, storages: Mapping[Site, FewBits]) -> Result:
    """Round these single-role sites of the model as it is now, each in its own way; its head and its table of words."""
    ranks = _ranks(task, settings, storages)
    found = settings.careful.of(task, storages, ranks) if settings.rounding == "gptq" else Rounded({}, {})
    edits: list[Edit] = in_threads(lambda site: _edit(task, site, storages[site], settings, found), list(storages))
    edits += [*tables(task.decoder, settings), *_corrections(task, found, list(ranks))]
    decoder = apply_edits(edits, task.decoder, found.arrays)
    return Result(decoder, tuple(edits), kept=1.0, arrays=found.arrays)


def outside_bytes(decoder: Decoder, settings: Settings, width: int) -> int:
    """Bytes of all that is not in the blocks, head and table of words stored as asked, a float taking `width`."""
    floats, few = decoder.other_parameters, 0
    for edit in tables(decoder, settings):
        embeds = EMBEDDING in edit.touch.writes
        shape = _shape(decoder.table if embeds else decoder.head)
        few += stored_bytes(edit.storage, shape, width)
        if embeds or not decoder.tied:
            floats -= shape[0] * shape[1]
    return width * floats + few


def _edit(task: Task, site: Site, storage: FewBits, settings: Settings, found: Rounded) -> QuantizeWeight:
    block = task.decoder.block(site.block)
    n_in, n_out = block.weight(site.role).shape
    return QuantizeWeight(
        site, (n_in, n_out), storage, replaced_digests(task.source.blocks, block, site.roles),
        settings.rounding, found.held.get(site, ()))


def _ranks(task: Task, settings: Settings, storages: Mapping[Site, FewBits]) -> dict[Site, int]:
    """Of pairs beside what is stored: those asked for, full where that is less."""
    if settings.correct_rank is None:
        return {}
    block = task.decoder.block
    return {site: min(settings.correct_rank, *block(site.block).size(site.roles)) for site in corrected_sites(storages)}


def _corrections(task: Task, found: Rounded, sites: list[Site]) -> list[AddLowRank]:
    """Pairs beside these sites."""
    def edit(site: Site) -> AddLowRank:
        block, names = task.decoder.block(site.block), names_of(site)
        digests = replaced_digests(task.source.blocks, block, site.roles)
        return AddLowRank(site, block.size(site.roles), found.arrays[names[0]].shape[1], names, digests)

    return in_threads(edit, sites)


def tables(decoder: Decoder, settings: Settings) -> list[StorageEdit]:
    """Edits of the head and the table of words: one, where they are one table and are stored alike. Raises ValueError
    where a pair stands in the place of one."""
    head = _storage(settings, settings.head_bits,
                    _full(settings, settings.head_bits, len(decoder.head)) or settings.block_size)
    table = _storage(settings, settings.embedding_bits,
                     _full(settings, settings.embedding_bits, len(decoder.table)))
    for part, few in ((HEAD, head), (EMBEDDING, table)):
        if few is not None and (pair := decoder.factored.get(part)) is not None:
            what = f"the {part} is a pair of rank {pair.a.shape[1]}, which stays in floats"
            raise ValueError(f"quantize: {what}; give {part}_bits=none")
    one = decoder.tied and head == table
    edits: list[StorageEdit] = []
    if head is not None and not one:
        edits.append(QuantizeHead(_shape(decoder.head), head, WeightDigest.of(_array(decoder.head))))
    if table is not None:
        stored = table if one else replace(table, accuracy=0)
        edits.append(QuantizeEmbedding(_shape(decoder.table), stored, WeightDigest.of(_array(decoder.table)), one))
    return edits


def _storage(settings: Settings, bits: Literal[4, 8] | None, size: BlockSize | None) -> FewBits | None:
    return None if bits is None or size is None else settings.storage_in(bits, size)


def _full(settings: Settings, bits: int | None, width: int) -> BlockSize | None:
    """The largest block that fills rows of a table, as GatherBlockQuantized wants them; None where none does. In 8 bits
    blocks of `WIDE` save half the bytes for scales of blocks of 32: 1.8 % of SmolLM2 in 4 bits, for 0.0006 of its
    perplexity."""
    most = max(settings.block_size, WIDE) if bits == 8 else settings.block_size
    return next((size for size in SIZES if size <= most and width % size == 0), None)


def _shape(table_CV: Tensor) -> tuple[int, int]:
    return table_CV.shape[0], table_CV.shape[1]


def _array(weight_IO: Tensor) -> np.ndarray:
    return np.ascontiguousarray(weight_IO.cpu().numpy())


def _until(settings: Settings) -> Phase:
    return Phase.STORAGE if settings.correct_rank is None else Phase.BESIDE


METHOD = Method("quantize", Settings, run, phase=Phase.STORAGE, until=_until)
