"""From pairs to what a method gives back: edits, factors, and the model that runs A B in the place of each W.

Knows nothing of how pairs were found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from foldrank.digests import WeightDigest, in_threads
from foldrank.edits.low_rank import LowRank
from foldrank.plans.method import Result, Task
from foldrank.plans.models.block import Block, Pair
from foldrank.plans.models.decoder import Decoder
from foldrank.sites import PACKED, ROLES, Site


def sites_of(block: Block, packed: str) -> tuple[Site, ...]:
    """The sites that a block has, in the order in which it applies them, packed ("joint") or single ("split")."""
    if packed == "split":
        return tuple(Site(block.number, (role,)) for role in block.roles)
    first = PACKED["gate_up"] if "gate" in block.roles else ("up",)
    joint = (PACKED["qkv"], ("o",), first, ("down",))
    return tuple(Site(block.number, roles) for roles in joint if set(roles) <= set(block.roles))


def stacked(block: Block, site: Site) -> Tensor:
    """W [in, out] of a site; roles of a packed one side by side."""
    return torch.cat([block.weight(role) for role in site.roles], dim=1)


def factored(task: Task, pairs: Mapping[Site, Pair]) -> Result:
    """The model with these pairs. `kept` counts an A that several sites share once."""
    ordered = dict(sorted(pairs.items(), key=_site_order))
    arrays = {name: array for site, pair in ordered.items() for name, array in _arrays(site, pair).items()}
    dense = sum(pair.a.shape[0] * pair.b.shape[1] for pair in ordered.values())
    before = task.decoder.site_parameters
    return Result(
        decoder=replaced(task.decoder, ordered),
        edits=tuple(in_threads(lambda item: _edit(task, *item), ordered.items())),
        kept=(before - dense + sum(array.size for array in arrays.values())) / before,
        arrays=arrays,
    )


def replaced(decoder: Decoder, pairs: Mapping[Site, Pair]) -> Decoder:
    """The model with A B in the place of W, rounded as a pair in float32 computes it."""
    held: dict[int, dict[Site, Pair]] = {}
    for site, pair in pairs.items():
        held.setdefault(site.block, {})[site] = pair
    return decoder.with_blocks([with_pairs(block, held.get(block.number, {})) for block in decoder.blocks])


def with_pairs(block: Block, pairs: Mapping[Site, Pair]) -> Block:
    """One block with A B in the place of some of its W."""
    return block.with_pairs({site.roles: pair for site, pair in pairs.items()})


def _edit(task: Task, site: Site, pair: Pair) -> LowRank:
    return LowRank(
        site=site, shape=(pair.a.shape[0], pair.b.shape[1]), rank=pair.a.shape[1], factors=_names(site, pair),
        replaces=replaced_digests(task.source.blocks, task.decoder.block(site.block), site.roles),
    )


def replaced_digests(source: Sequence[Block], block: Block, roles: Sequence[str]) -> tuple[WeightDigest, ...]:
    """Digests of what a graph holds at a site: of the source's weights, or of what a fold leaves there."""
    named = {other.number: other for other in source}

    def digest(role: str) -> WeightDigest:
        terms = block.origin.get(role, {block.number: 1.0})
        return WeightDigest.of_combination([named[b].weight(role).cpu().numpy() for b in terms], [*terms.values()])

    return tuple(digest(role) for role in roles)


def _arrays(site: Site, pair: Pair) -> dict[str, np.ndarray]:
    return {
        name: np.ascontiguousarray(tensor.cpu().numpy())
        for name, tensor in zip(_names(site, pair), (pair.a, pair.b), strict=True)
    }


def _names(site: Site, pair: Pair) -> tuple[str, str]:
    return pair.shared or f"{site}.A", f"{site}.B"


def _site_order(item: tuple[Site, Pair]) -> tuple[int, int]:
    site = item[0]
    return site.block, ROLES.index(site.roles[0])
