"""Layer-Wise Quantization (arXiv 2406.17415): the blocks that matter most in `high` bits, the others in `low`.

Importance of a block is one of two scores:
    lim   1 - E[cos(x, block(x))] over the tokens of the calibration text: more is more important
    zd    share of the block's weights beyond z = 1, that is above mean + deviation of all of them: less is more
          important; it needs no text
All that is stored is rounded as `quantize` rounds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass as settings_dataclass

from foldrank.edits.base import Phase
from foldrank.plans.bits.settings import BlockSize, TableBits
from foldrank.plans.bits.settings import Settings as Storing
from foldrank.plans.criteria.judging import turned
from foldrank.plans.method import Method, Result, Task
from foldrank.plans.methods.quantize import stored
from foldrank.plans.models.block import Block
from foldrank.plans.shelf import Finding, States, walk
from foldrank.sites import Site


@settings_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Settings:
    """Exactly one of `bits`, the most that a weight of the blocks may have on average, and `high_blocks`, how many
    blocks have `high` bits, is given. The rest as of `quantize`."""

    score: Literal["lim", "zd"] = "lim"
    bits: Annotated[float, Field(ge=2, le=8)] | None = None
    high_blocks: Annotated[int, Field(ge=0)] | None = None
    high: Annotated[Literal[4, 8], BeforeValidator(int)] = 8
    low: Annotated[Literal[2, 4], BeforeValidator(int)] = 4
    block_size: Annotated[BlockSize, BeforeValidator(int)] = 32
    symmetric: bool = True
    accuracy: Annotated[Literal[0, 4], BeforeValidator(int)] = 4
    head_bits: TableBits = 8
    embedding_bits: TableBits = 8
    rounding: Literal["gptq", "nearest"] = "gptq"

    def __post_init__(self) -> None:
        if (self.bits is None) == (self.high_blocks is None):
            raise ValueError("give exactly one of bits, high_blocks")
        if self.low >= self.high:
            raise ValueError(f"low={self.low} is not below high={self.high}")
        if self.bits is not None and not self.low <= self.bits <= self.high:
            raise ValueError(f"bits={self.bits:g} is not between low={self.low} and high={self.high}")

    @property
    def storing(self) -> Storing:
        """How what is stored is rounded and stored, in `low` bits."""
        return Storing(
            bits=self.low, block_size=self.block_size, symmetric=self.symmetric, accuracy=self.accuracy,
            head_bits=self.head_bits, embedding_bits=self.embedding_bits, rounding=self.rounding)


def run(task: Task, settings: Settings) -> Result:
    """Round the model as it is now. Raises ValueError where blocks share a matrix, or are fewer than `high_blocks`."""
    if any(pair.shared for block in task.decoder.blocks for pair in block.pairs.values()):
        raise ValueError("layerwise: blocks share a matrix, which has one number of bits; use quantize, or ranks of "
                         "another method than basis_sharing")
    importance = lim(task) if settings.score == "lim" else zd(task)
    sizes = {block.number: task.decoder.with_blocks([block]).stored_parameters for block in task.decoder.blocks}
    high = chosen(importance, sizes, settings)
    low = settings.storing.storage
    storages = {Site(block.number, (role,)): replace(low, bits=settings.high) if block.number in high else low
                for block in task.decoder.blocks for role in block.roles}
    average = settings.low + (settings.high - settings.low) * sum(sizes[b] for b in high) / sum(sizes.values())
    return replace(
        stored(task, settings.storing, storages),
        predicted={"layerwise.bits": average, "layerwise.high_blocks": len(high)},
        diagnostics={"layerwise_scores": {str(block): score for block, score in importance.items()}},
    )


METHOD = Method("layerwise", Settings, run, phase=Phase.STORAGE)


def chosen(importance: Mapping[int, float], sizes: Mapping[int, int], settings: Settings) -> frozenset[int]:
    """The blocks that have `high` bits: the most important ones, of equals the lower, as long as the budget holds.
    `sizes`: numbers stored, by block. Raises ValueError where there are not so many."""
    order = sorted(importance, key=lambda block: (-importance[block], block))
    if settings.high_blocks is not None:
        if settings.high_blocks > len(order):
            raise ValueError(f"layerwise: high_blocks={settings.high_blocks}, the model has {len(order)}")
        return frozenset(order[: settings.high_blocks])
    assert settings.bits is not None
    left = sum(sizes.values()) * (settings.bits - settings.low) / (settings.high - settings.low) + 1e-6
    found = set[int]()
    for block in order:
        left -= sizes[block]
        if left < 0:
            break
        found.add(block)
    return frozenset(found)


def lim(task: Task) -> dict[int, float]:
    """How far each block turns what enters it. Cost: one forward pass."""
    decoder = task.decoder

    def step(block: Block, states: States) -> tuple[Finding, States]:
        output = decoder.run(block, states["hidden"])
        return Finding(values={"turned": turned(states["hidden"], output)}), {"hidden": output}

    with torch.no_grad():
        found = walk(decoder.blocks, task.shelf.under("lim"), lambda: {"hidden": decoder.embed(task.ids)}, step,
                     stage="importance", device=decoder.device, progress=task.progress)
    return {block.number: found[block.number].values["turned"] for block in decoder.blocks}


def zd(task: Task) -> dict[int, float]:
    """Minus the share of each block's weights above their mean by more than their deviation."""
    def share(block: Block) -> float:
        weights = torch.cat([block.weight(role).flatten() for role in block.roles] or [torch.zeros(1)]).double()
        return float((weights > weights.mean() + weights.std(correction=0)).double().mean())

    return {block.number: -share(block) for block in task.decoder.blocks}
