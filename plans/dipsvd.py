"""DipSVD, dual-importance protected SVD (June 2025): every linear of every block becomes a low-rank pair.

Local importance: the metric of `whitening.py` under which a weight is truncated (`truncation.py`). Global importance:
how the budget is shared (`ratios`):
    uniform     the same ratio for every block
    released    per block, more where sensitivity and effective rank are low   (DipSVD's released heuristic)
    formula     per block, more where they are high                            (the formula in notes on the paper)
    spectrum    per site: rank by rank to whoever gains most relative loss per number (not in the paper; the default)
Which sign is right depends on the model. Perplexity over dense at keep 0.8 (plain, joint) for uniform / released /
formula / spectrum: specs-5m (align 16) 1.058 / 1.065 / 1.022 / 1.013; a compact model of 300K parameters (align 2)
2.77 / 2.24 / 4.86 / 2.78. `spectrum` is never far behind `uniform`, often ahead, and needs no gradients.
The text runs through the blocks once, each seeing the original outputs of the block below; only one block's Gram
matrices are in memory. Every decomposition serves all ranks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as settings_dataclass
from torch import Tensor

from foldrank.digests import WeightDigest
from foldrank.edits import LowRank
from foldrank.plans import allocation
from foldrank.plans.decoder import Block, Decoder
from foldrank.plans.grams import BlockStatistics, block_statistics, input_of, watched
from foldrank.plans.method import Method, Result, Task
from foldrank.plans.ranks import Candidate, Ranks, from_ratios, smallest, spend, total
from foldrank.plans.truncation import Truncations, truncations
from foldrank.plans.whitening import Whitening, metric
from foldrank.progress import track
from foldrank.sites import PACKED, ROLES, Site

SENSITIVITY_WINDOWS = 4


@settings_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Settings:
    """`keep`: share of the blocks' weights left, at most. `packed`: factor q, k, v (and gate, up) jointly or apart."""

    keep: Annotated[float, Field(gt=0, le=1)]
    whitening: Whitening = "plain"
    top_share: Annotated[float, Field(ge=0, le=1)] = 0.03
    weight: Annotated[float, Field(gt=0)] = 30.0
    ratios: Literal["uniform", "released", "formula", "spectrum"] = "spectrum"
    align: Annotated[int, Field(ge=1)] = 16
    packed: Literal["joint", "split"] = "joint"


@dataclass(frozen=True)
class Decomposed:
    """All truncations of all sites, and what per-block ratios are made of."""

    sites: dict[Site, Truncations]
    candidates: tuple[Candidate, ...]
    effective_ranks: tuple[int, ...]


def run(task: Task, settings: Settings) -> Result:
    """Factor the model. Raises ValueError where the budget is below the smallest ranks."""
    decoder = task.decoder
    if settings.keep == 1:
        return Result(decoder, edits=(), kept=1.0)
    parts = decompose(task, settings)
    before = decoder.site_parameters
    ranks = choose_ranks(task, settings, parts)
    chosen = {site: rank for site, rank in sorted(ranks.items(), key=_site_order) if rank is not None}
    pairs = {site: parts.sites[site].pair(rank) for site, rank in chosen.items()}
    return Result(
        decoder=_replaced(decoder, pairs),
        edits=tuple(_edit(task, site, pair) for site, pair in pairs.items()),
        kept=total(parts.candidates, ranks) / before,
        arrays={name: array for site, pair in pairs.items() for name, array in _arrays(site, pair).items()},
        predicted={"dipsvd.mean_relative_loss": float(np.mean([c.loss(ranks[c.site]) for c in parts.candidates]))},
        diagnostics={"spectra": [_spectrum(c, ranks[c.site]) for c in parts.candidates]},
    )


METHOD = Method("dipsvd", Settings, run, folds=False)


def sites_of(block: Block, packed: str) -> tuple[Site, ...]:
    """The sites of a block in the order in which it applies them, packed or single."""
    if packed == "split":
        return tuple(Site(block.number, (role,)) for role in block.roles)
    first = PACKED["gate_up"] if "gate" in block.roles else ("up",)
    return tuple(Site(block.number, roles) for roles in (PACKED["qkv"], ("o",), first, ("down",)))


def stacked(block: Block, site: Site) -> Tensor:
    """W [in, out] of a site; roles of a packed one side by side."""
    return torch.cat([block.weight(role) for role in site.roles], dim=1)


def decompose(task: Task, settings: Settings) -> Decomposed:
    """Run the text through the blocks and decompose every site on the way; Gram matrices of one block at a time."""
    hidden = task.decoder.embed(task.ids)
    sites: dict[Site, Truncations] = {}
    ranks = []
    for block in track(task.decoder.blocks, "dipsvd", len(task.decoder.blocks), task.progress):
        statistics, hidden = block_statistics(task.decoder, block, hidden)
        sites |= _truncated(block, statistics, settings)
        ranks.append(allocation.effective_rank(statistics.output))
    candidates = tuple(
        _candidate(block, site, sites[site])
        for block in task.decoder.blocks for site in sites_of(block, settings.packed)
    )
    return Decomposed(sites, candidates, tuple(ranks))


def choose_ranks(task: Task, settings: Settings, parts: Decomposed) -> Ranks:
    """Rank of every site within floor(keep * numbers in the blocks' weights)."""
    budget = math.floor(settings.keep * task.decoder.site_parameters + 1e-9)
    if settings.ratios == "spectrum":
        start = smallest(parts.candidates, settings.align)
    else:
        start = from_ratios(parts.candidates, _ratios(task, settings, parts), settings.align)
    if total(parts.candidates, start) > budget:
        start = smallest(parts.candidates, 1)
    try:
        return spend(parts.candidates, start, budget, settings.align)
    except ValueError as error:
        raise ValueError(f"dipsvd: keep={settings.keep}: {error}") from None


def _ratios(task: Task, settings: Settings, parts: Decomposed) -> dict[int, float]:
    numbers = [block.number for block in task.decoder.blocks]
    if settings.ratios == "uniform":
        return dict.fromkeys(numbers, settings.keep)
    sensitivity = allocation.sensitivities(task.decoder, task.ids[:SENSITIVITY_WINDOWS])
    width = task.decoder.blocks[0].weight("q").shape[0]
    scores = allocation.importance(sensitivity, parts.effective_ranks, width)
    chosen = allocation.ratios(scores, settings.keep, sign=1 if settings.ratios == "formula" else -1)
    return dict(zip(numbers, map(float, chosen), strict=True))


def _candidate(block: Block, site: Site, parts: Truncations) -> Candidate:
    n_in = block.weight(site.roles[0]).shape[0]
    return Candidate(site, n_in, sum(block.weight(role).shape[1] for role in site.roles), parts.shares)


def _truncated(block: Block, statistics: BlockStatistics, settings: Settings) -> dict[Site, Truncations]:
    metrics = {
        role: metric(statistics.inputs[role], settings.whitening, top_share=settings.top_share, weight=settings.weight)
        for role in watched(block)
    }
    return {
        site: truncations(stacked(block, site), metrics[input_of(block, site.roles[0])])
        for site in sites_of(block, settings.packed)
    }


def _replaced(decoder: Decoder, pairs: dict[Site, tuple[Tensor, Tensor]]) -> Decoder:
    """The model with A B in the place of W, rounded as a pair in float32 computes it."""
    weights: dict[int, dict[str, Tensor]] = {}
    widths = {block.number: {role: block.weight(role).shape[1] for role in block.roles} for block in decoder.blocks}
    for site, (a, b) in pairs.items():
        columns = (a @ b).split([widths[site.block][role] for role in site.roles], dim=1)
        weights.setdefault(site.block, {}).update(zip(site.roles, columns, strict=True))
    return decoder.with_blocks([block.with_weights(weights.get(block.number, {})) for block in decoder.blocks])


def _edit(task: Task, site: Site, pair: tuple[Tensor, Tensor]) -> LowRank:
    a, b = pair
    return LowRank(
        site=site, shape=(a.shape[0], b.shape[1]), rank=a.shape[1], factors=(f"{site}.A", f"{site}.B"),
        replaces=tuple(_digest(task, site.block, role) for role in site.roles),
    )


def _digest(task: Task, number: int, role: str) -> WeightDigest:
    """Digest of the weight a graph holds there: after an earlier fold, of the combination of the source's weights."""
    fold = task.folds.get(number)
    blocks: Sequence[int] = (number,) if fold is None else fold.blocks
    coefficients = [1.0] if fold is None else [fold.coefficients[b] for b in blocks]
    named = {block.number: block for block in task.source.blocks}
    return WeightDigest.of_combination([named[b].weight(role).cpu().numpy() for b in blocks], coefficients)


def _arrays(site: Site, pair: tuple[Tensor, Tensor]) -> dict[str, np.ndarray]:
    return {f"{site}.{name}": np.ascontiguousarray(t.cpu().numpy()) for name, t in zip("AB", pair, strict=True)}


def _spectrum(candidate: Candidate, rank: int | None) -> dict[str, object]:
    """At most 64 points of the relative loss by rank, for the picture."""
    full = len(candidate.shares) - 1
    points = np.unique(np.linspace(0, full, 64).round().astype(int))
    return {
        "site": str(candidate.site), "ranks": points.tolist(), "values": candidate.shares[points].tolist(),
        "rank": rank, "full": full,
    }


def _site_order(item: tuple[Site, int | None]) -> tuple[int, int]:
    site = item[0]
    return site.block, ROLES.index(site.roles[0])
