"""merge: LoRA adapters of the checkpoint (`merge:path=DIR`, several with + between them) go into its weights: W + A B.

All other methods come behind it and are given the merged model, whatever they fold, turn, factor or round. The graph
that a plan is applied to is the checkpoint's still, so weights that an adapter changed, and that no later edit writes
anyway, become `replace_weight` edits: as the edits before that phase leave them of the merged model. Without other
methods these are W + A B, products in float64, rounded once. Source: LoRA (arXiv 2106.09685).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from foldrank.edits import Edit
from foldrank.edits.base import Part, Phase
from foldrank.edits.replace_weight import ReplaceWeight
from foldrank.errors import SourceError
from foldrank.plans.low_rank.factoring import replaced_digests, stacked
from foldrank.plans.low_rank.loras import Adapters, pairs_of
from foldrank.plans.method import Method, Result, Task
from foldrank.plans.models.block import Block
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.simulate import apply_edits
from foldrank.sites import Site

_PLACING = (Phase.WEIGHTS, Phase.SHARING)
"""Edits of these say what stands at a site, whatever was there."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Settings(Adapters):
    """Which adapters, and what each counts."""


def run(task: Task, settings: Settings) -> Result:
    """Merge them. Raises SourceError where one is not plain LoRA, or of another model; ValueError where weights are not
    as many."""
    pairs = pairs_of(settings, task.decoder)
    added: dict[int, dict[str, Tensor]] = {}
    for site, found in pairs.items():
        block = task.decoder.block(site.block)
        total = stacked(block, site).double() + sum(pair.a.double() @ pair.b.double() for pair in found)
        columns = total.float().split([block.weight(role).shape[1] for role in site.roles], dim=1)
        added.setdefault(site.block, {}).update(zip(site.roles, columns, strict=True))
    blocks = [block.with_weights(added[block.number]) if block.number in added else block
              for block in task.decoder.blocks]
    changed = frozenset(part for site in pairs for part in site.parts)
    return _placed(task.decoder.with_blocks(blocks), changed, task.source, (), {})


def settled(result: Result, source: Decoder, later: Sequence[Edit], arrays: Mapping[str, np.ndarray]) -> Result:
    """The same with the weights that these edits of later methods leave to it. Raises SourceError where they put
    something else through the checkpoint's weights."""
    changed = frozenset[Part]().union(*(edit.touch.writes for edit in result.edits))
    return _placed(result.decoder, changed, source, later, arrays)


METHOD = Method("merge", Settings, run, phase=Phase.WEIGHTS, settled=settled)


def _placed(
    merged: Decoder, changed: frozenset[Part], source: Decoder, later: Sequence[Edit], arrays: Mapping[str, np.ndarray]
) -> Result:
    """`changed`: the parts of the source that adapters changed."""
    early = [edit for edit in later if edit.phase < Phase.WEIGHTS]
    left = apply_edits(early, merged, arrays)
    if left.centred:
        _check_biases(left, apply_edits(early, source, arrays))
    taken = frozenset[Part]().union(*(edit.touch.writes for edit in later if edit.phase in _PLACING))
    edits: list[ReplaceWeight] = []
    made: dict[str, np.ndarray] = {}
    for block in left.blocks:
        for site in _sites(block, changed, taken):
            edits.append(ReplaceWeight(site, f"{site}.merged", replaced_digests(source.blocks, block, site.roles)))
            made[edits[-1].tensor] = np.ascontiguousarray(stacked(block, site).cpu().numpy())
    return Result(merged, tuple(edits), kept=1.0, arrays=made)


def _check_biases(left: Decoder, unmerged: Decoder) -> None:
    """A norm's bias that leaves the norm goes through the weights behind it: on a graph through the checkpoint's."""
    for block, other in zip(left.blocks, unmerged.blocks, strict=True):
        for name, bias in block.tensors.items():
            if name.endswith(".bias") and not torch.equal(bias, other.tensors[name]):
                what = f"changes weights that pre_rmsnorm puts biases of norms through, into {name}"
                raise SourceError(f"block {block.number}", f"merge {what}",
                                  "merge with peft, and give the merged model")


def _sites(block: Block, changed: frozenset[Part], taken: frozenset[Part]) -> Iterator[Site]:
    """Of a block, what adapters changed, in it or in what was folded into it, and nobody takes: whole matrices of the
    model, or of one that is taken in part the roles that are left."""
    for held in block.family.linears.values():
        came_from = (Site(number, (role,)) for role in held for number in block.origin.get(role, {block.number: 1.0}))
        if changed.isdisjoint(came_from) or not set(held) <= set(block.roles):
            continue
        whole = Site(block.number, held)
        free = [part for part in whole.parts if part not in taken]
        yield from [whole] if len(free) == len(held) else free
