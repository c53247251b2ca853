"""adapter: LoRA adapters of the checkpoint (`adapter:path=DIR`, as PEFT writes them) stand beside what is there.

Each pair becomes an `add_low_rank` edit: y = x W + (x A) B, A times alpha / r; the base's weights are not touched, so
they may be stored in few bits before. Pairs of several adapters (`path=DIR+DIR`) on one site stand there as one, side
by side, or of a smaller `rank` (`low_rank/combining.py`). An adapter is applied as it is: it was made for the
checkpoint, so what other methods changed before is not made up for. Source: LoRA (arXiv 2106.09685), LoRA-LEGO
(2409.16167).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Literal

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from foldrank.digests import sha256_array
from foldrank.edits.add_low_rank import AddLowRank
from foldrank.edits.base import Phase, adapter_factors
from foldrank.errors import SourceError
from foldrank.plans.low_rank.combining import clustered, side_by_side, truncated
from foldrank.plans.low_rank.factoring import replaced_digests
from foldrank.plans.low_rank.grams import GRAMS, input_of
from foldrank.plans.low_rank.loras import Adapters, pairs_of
from foldrank.plans.method import Method, Result, Task
from foldrank.plans.models.block import Block, Pair
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.shelf import Finding, States, walk
from foldrank.plans.simulate import apply_edits
from foldrank.sites import Site

Pairs = Mapping[Site, Pair]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Settings(Adapters):
    """`rank`: of what stands at a site, at most; without it the sum of the adapters' ranks. `reduce`: how it comes to
    that."""

    rank: Annotated[int, Field(ge=1)] | None = None
    reduce: Literal["gram", "lego"] = "gram"


def run(task: Task, settings: Settings) -> Result:
    """Read them and put their pairs beside. Raises SourceError where one is not plain LoRA, or of another model, or the
    model's stream is another than it was made for; ValueError where weights are not as many."""
    if task.decoder.rotated or task.decoder.centred:
        raise SourceError(settings.path, "was made for a stream that is neither rotated nor without its mean",
                          "plan without rotate and pre_rmsnorm, or put it into the weights before them: merge:path=DIR")
    apart = pairs_of(settings, task.decoder)
    pairs: dict[Site, Pair] = {site: side_by_side(found) for site, found in apart.items()}
    if settings.rank is not None:
        large = {site: found for site, found in apart.items() if pairs[site].a.shape[1] > settings.rank}
        if settings.reduce == "lego":
            pairs |= {site: clustered(found, settings.rank, task.seed) for site, found in large.items()}
        elif large:
            pairs |= _truncated(task, pairs, large, settings.rank)
    return _beside(task, pairs)


METHOD = Method("adapter", Settings, run, phase=Phase.BESIDE)


def _beside(task: Task, pairs: Pairs) -> Result:
    edits: list[AddLowRank] = []
    arrays: dict[str, np.ndarray] = {}
    for site, pair in pairs.items():
        block, names = task.decoder.block(site.block), adapter_factors(site)
        shape, rank = (len(pair.a), pair.b.shape[1]), len(pair.b)
        edits.append(AddLowRank(site, shape, rank, names, replaced_digests(task.source.blocks, block, site.roles)))
        halves = (np.ascontiguousarray(half.cpu().numpy()) for half in (pair.a, pair.b))
        arrays |= dict(zip(names, halves, strict=True))
    return Result(apply_edits(edits, task.decoder, arrays), tuple(edits), kept=1.0, arrays=arrays)


def _truncated(task: Task, pairs: Pairs, large: Collection[Site], rank: int) -> dict[Site, Pair]:
    """Those of the sites, under the Gram matrices of the inputs that the model with all pairs beside gives."""
    whole = _with(task.decoder, pairs)
    highest = max(site.block for site in large)
    blocks = [block for block in whole.blocks if block.number <= highest]

    def step(block: Block, states: States) -> tuple[Finding, States]:
        here = [site for site in large if site.block == block.number]
        sums, states = task.shards.through(whole, task.ids, block, states, GRAMS if here else ())
        grams = sums.inputs.inputs
        found = {site: truncated(pairs[site], grams[input_of(block, site.roles[0])], rank) for site in here}
        return Finding({f"{site}.{half}": getattr(pair, half) for site, pair in found.items() for half in "ab"}), states

    content = " ".join(sha256_array(half.cpu().numpy()) for pair in pairs.values() for half in (pair.a, pair.b))
    findings = walk(blocks, task.shelf.under(f"inputs beside adapters {content}"),
                    lambda: task.shards.start(whole, task.ids), step, stage="adapters", device=whole.device,
                    progress=task.progress)
    found = {site: findings[site.block].tensors for site in large}
    return {site: Pair(tensors[f"{site}.a"], tensors[f"{site}.b"]) for site, tensors in found.items()}


def _with(decoder: Decoder, pairs: Pairs) -> Decoder:
    """The decoder with these beside what it has."""
    return decoder.with_blocks([
        block.with_beside({site.roles: pair for site, pair in pairs.items() if site.block == block.number})
        for block in decoder.blocks])
