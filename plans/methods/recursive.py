"""recursive: neighbouring blocks loop over one set of weights, with a low-rank pair of each block's own beside it.

Relaxed Recursive Transformers (arXiv 2410.20672): `group` blocks read one W, W_l = W + A_l B_l (`low_rank/sharing.py`).
Norms and biases stay each block's own. `rank` is one for all pairs, 0 for none (the blocks are tied but for their
norms); with `keep` ranks go where a number stored takes most from the predicted loss: what truncation leaves of each
site's output, times the curvature of the loss there. Bytes stored shrink; a token multiplies by W in every block, and
by the pairs on top, so it takes no less time. Statistics are those of the model as it is given. Cost: a run of it over
the text, and for each site of each block an eigenproblem; with `keep` a backward pass too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as settings_dataclass
from torch import Tensor

from foldrank.edits import Edit
from foldrank.edits.add_low_rank import AddLowRank
from foldrank.edits.base import Phase
from foldrank.edits.low_rank import rank_limit
from foldrank.edits.replace_weight import ReplaceWeight
from foldrank.edits.share_weights import ShareWeights
from foldrank.plans.bits.correcting import corrected_sites
from foldrank.plans.low_rank.allocation import curvatures
from foldrank.plans.low_rank.factoring import replaced_digests, stacked
from foldrank.plans.low_rank.grams import input_of
from foldrank.plans.low_rank.sharing import residual, shared_weight
from foldrank.plans.method import Method, Result, Task
from foldrank.plans.models.block import Block
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.shelf import Finding, States, walk
from foldrank.plans.simulate import apply_edits
from foldrank.sites import Site


@settings_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Settings:
    """`group`: how many neighbours share; the last group may be smaller. `rank` of all pairs, or `keep`: the share of
    the blocks' numbers that is stored."""

    group: Annotated[int, Field(ge=2)] = 2
    rank: Annotated[int, Field(ge=0)] | None = None
    keep: Annotated[float, Field(gt=0, lt=1)] | None = None

    def __post_init__(self) -> None:
        if self.rank is not None and self.keep is not None:
            raise ValueError("rank and keep: give one of them")


@dataclass(frozen=True)
class Group:
    """Blocks that share, the first one's weights being all's, at these roles: those that all have in one shape."""

    blocks: tuple[Block, ...]
    roles: tuple[str, ...]

    @property
    def sites(self) -> list[tuple[Site, ...]]:
        """Sites of the first block that read one input together, each with those of the others, block by block."""
        first = self.blocks[0].number
        return [tuple(Site(block.number, site.roles) for block in self.blocks)
                for site in corrected_sites(Site(first, (role,)) for role in self.roles)]


@dataclass(frozen=True)
class Pairs:
    """Pairs beside one block's site, of every rank up to the number of A's columns; losses at each rank."""

    a: Tensor
    b: Tensor
    losses: np.ndarray

    @property
    def each(self) -> int:
        """Numbers that a rank stores."""
        return self.a.shape[0] + self.b.shape[1]


def run(task: Task, settings: Settings) -> Result:
    """Share and put pairs beside. Raises ValueError where `keep` is below what sharing alone leaves."""
    groups = groups_of(task.decoder, settings.group)
    found = _solved(task, groups, settings)
    edits, arrays = _shared(task, groups, found)
    tied = apply_edits(edits, task.decoder, arrays)
    pairs = _pairs(groups, found)
    ranks = _ranks(task, tied, pairs, settings)
    for site, rank in ranks.items():
        block, names = task.decoder.block(site.block), (f"{site}.residual.A", f"{site}.residual.B")
        digests = replaced_digests(task.source.blocks, block, site.roles)
        edits.append(AddLowRank(site, block.size(site.roles), rank, names, digests))
        arrays |= {names[0]: _array(pairs[site].a[:, :rank]), names[1]: _array(pairs[site].b[:rank])}
    decoder = apply_edits(edits[len(edits) - len(ranks):], tied, arrays)
    return Result(decoder, tuple(edits), decoder.stored_parameters / task.decoder.stored_parameters, arrays)


def _until(settings: Settings) -> Phase:
    return Phase.BESIDE if settings.keep is not None or settings.rank else Phase.SHARING


METHOD = Method("recursive", Settings, run, phase=Phase.WEIGHTS, until=_until)


def groups_of(decoder: Decoder, size: int) -> list[Group]:
    """Neighbours in groups of that size, from the first on; those of one block, or without a role in common, left
    out."""
    found = []
    for start in range(0, len(decoder.blocks), size):
        blocks = decoder.blocks[start : start + size]
        roles = tuple(role for role in blocks[0].roles if _alike(blocks, role))
        if len(blocks) > 1 and roles:
            found.append(Group(blocks, roles))
    return found


def _alike(blocks: Sequence[Block], role: str) -> bool:
    """Whether all have the role, in one shape, with whatever lies in one weight with it."""
    together = blocks[0].family.linears[blocks[0].family.path(role)]
    return all(other in block.roles and block.weight(other).shape == blocks[0].weight(other).shape
               for block in blocks for other in together)


def _solved(task: Task, groups: Sequence[Group], settings: Settings) -> dict[int, Finding]:
    """Of each group, by its first block's number: W of each site, and of each block's own A, B and losses."""
    by_lead = {group.blocks[0].number: group for group in groups}
    leads = [task.decoder.block(number) for number in by_lead]
    rest = {lead.number: _between(task.decoder, lead, leads) for lead in leads}

    def step(lead: Block, states: States) -> tuple[Finding, States]:
        grams = dict[int, Mapping[str, Tensor]]()
        for block in rest[lead.number]:
            sums, states = task.shards.through(task.decoder, task.ids, block, states)
            grams[block.number] = sums.inputs.inputs
        return Finding(dict(_solutions(by_lead[lead.number], grams, settings))), states

    return walk(leads, task.shelf.under(f"recursive {settings}"), lambda: task.shards.start(task.decoder, task.ids),
                step, stage="recursive", device=task.decoder.device, progress=task.progress)


def _between(decoder: Decoder, lead: Block, leads: Sequence[Block]) -> list[Block]:
    """The blocks from a lead on, up to the next one; those before the first lead with it."""
    numbers = [block.number for block in leads]
    following = numbers[numbers.index(lead.number) + 1 :]
    start = -1 if lead.number == numbers[0] else lead.number
    return [block for block in decoder.blocks
            if start <= block.number and (not following or block.number < following[0])]


def _solutions(
    group: Group, grams: Mapping[int, Mapping[str, Tensor]], settings: Settings
) -> Iterator[tuple[str, Tensor]]:
    for sites in group.sites:
        weights = [stacked(block, site) for block, site in zip(group.blocks, sites, strict=True)]
        seen = [grams[block.number][input_of(block, sites[0].roles[0])] for block in group.blocks]
        shared = shared_weight(weights, seen).float()
        yield f"{sites[0]}.W", shared
        most = settings.rank or 0 if settings.keep is None else rank_limit(*shared.shape)
        for site, weight, gram in zip(sites, weights, seen, strict=True):
            parts = residual(weight, shared, gram, most) if most else ()
            yield from ((f"{site}.{name}", part) for name, part in zip(("A", "B", "losses"), parts, strict=False))


def _shared(
    task: Task, groups: Sequence[Group], found: Mapping[int, Finding]
) -> tuple[list[Edit], dict[str, np.ndarray]]:
    """Edits that write the first block of each group and let the others read it."""
    writing: list[Edit] = []
    sharing: list[Edit] = []
    arrays: dict[str, np.ndarray] = {}
    for group in groups:
        lead, *others = group.blocks
        for site, *_ in group.sites:
            name = f"{site}.shared"
            digests = replaced_digests(task.source.blocks, lead, site.roles)
            writing.append(ReplaceWeight(site, name, digests))
            arrays[name] = _array(found[lead.number].tensors[f"{site}.W"])
        sharing += [ShareWeights(block.number, lead.number, group.roles) for block in others]
    return [*writing, *sharing], arrays


def _pairs(groups: Sequence[Group], found: Mapping[int, Finding]) -> dict[Site, Pairs]:
    """Of every site of every group that has pairs."""
    pairs = {}
    for group in groups:
        tensors = found[group.blocks[0].number].tensors
        for site in (site for sites in group.sites for site in sites):
            if f"{site}.A" in tensors:
                a, b, losses = (tensors[f"{site}.{name}"] for name in ("A", "B", "losses"))
                pairs[site] = Pairs(a, b, losses.numpy())
    return dict(sorted(pairs.items()))


def _ranks(task: Task, tied: Decoder, pairs: Mapping[Site, Pairs], settings: Settings) -> dict[Site, int]:
    """The rank of every pair; those of rank 0 left out."""
    if settings.keep is None:
        return {site: len(found.b) for site, found in pairs.items()}
    before, least = task.decoder.stored_parameters, tied.stored_parameters
    left = int(settings.keep * before) - least
    if left < 0:
        raise ValueError(f"recursive:keep={settings.keep:g}: groups of {settings.group} store {least / before:.3f} of "
                         f"the blocks' numbers without any pair; give a larger keep or group")
    curves = curvatures(task.decoder, task.ids, task.shelf.under("curvatures"), task.progress)
    return filled({site: (found.each, -np.diff(found.losses[: len(found.b) + 1])
                           * float(np.mean([curves[part] for part in site.parts])))
                    for site, found in pairs.items()}, left)


def filled(gains: Mapping[Site, tuple[int, np.ndarray]], left: int) -> dict[Site, int]:
    """Ranks one by one where a number stored takes most: what each next rank takes from a site's loss falls, so no
    other ranks take more for the numbers they store. `gains`: numbers a rank stores, and what each takes."""
    steps = sorted(((-gain / each, site, rank) for site, (each, taken) in gains.items()
                    for rank, gain in enumerate(taken, 1) if gain > 0))
    ranks: dict[Site, int] = {}
    for _, site, rank in steps:
        each = gains[site][0]
        if each <= left and ranks.get(site, 0) == rank - 1:
            ranks[site] = rank
            left -= each
    return dict(sorted(ranks.items()))


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.cpu().numpy())
