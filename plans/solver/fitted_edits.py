"""From refit blocks to what a method gives back: folds, dropped branches, narrower MLPs, pairs, and new weights for
the sites that stayed dense.

Knows nothing of how the blocks were chosen or fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from foldrank.edits import Edit
from foldrank.edits.base import WeightEdit
from foldrank.edits.low_rank import LowRank
from foldrank.edits.replace_weight import ReplaceWeight
from foldrank.edits.slice_mlp import Channels, SliceMlp
from foldrank.plans.low_rank.factoring import replaced_digests
from foldrank.plans.method import Result, Task
from foldrank.plans.models.block import Block, Pair
from foldrank.plans.solver.block_refit import Fitted
from foldrank.plans.solver.layout import Layout, Packed, Span
from foldrank.plans.solver.original import Original, sites
from foldrank.plans.width.slicing import roles_of
from foldrank.sites import Site


def fitted_result(
    task: Task, original: Original, layout: Layout, fits: Sequence[Fitted], kept: float
) -> Result:
    """The model with these blocks, and the edits that lead a graph there."""
    blocks = [_as_told(task, span, fitted) for span, fitted in zip(layout, fits, strict=True)]
    edits: list[Edit] = [span.fold for span in layout if span.fold is not None]
    edits += [span.drop for span in layout if span.drop is not None]
    edits += [_slice(task, span, block, original) for span, block in zip(layout, blocks, strict=True)
              if span.width is not None]
    arrays: dict[str, np.ndarray] = {}
    for block in blocks:
        for edit, named in _site_edits(task, original.packed, block):
            edits.append(edit)
            arrays |= {name: np.ascontiguousarray(array.cpu().numpy()) for name, array in named.items()}
    return Result(task.decoder.with_blocks(blocks), tuple(edits), kept, arrays)


def _as_told(task: Task, span: Span, fitted: Fitted) -> Block:
    """The block with what it was folded from, and its pairs."""
    pairs = {roles: Pair(a, b) for roles, (a, b) in fitted.pairs.items()}
    origin = task.decoder.block(span.low).origin
    if (fold := span.fold) is not None:
        origin = {role: fold.of(role) for role in fitted.block.family.roles}
    return replace(fitted.block, origin=origin, pairs=pairs)


def _slice(task: Task, span: Span, block: Block, original: Original) -> SliceMlp:
    """Which channels stay; what becomes of the matrices themselves is edits of their own."""
    shape = task.decoder.block(span.low).weight("down").shape
    kept = original.orders[span.source].kept(len(block.weight("down")))
    return SliceMlp(span.low, (shape[0], shape[1]), Channels(tuple(kept.tolist())), None, None,
                    replaced_digests(task.source.blocks, block, roles_of(block)))


def _site_edits(task: Task, packed: Packed, block: Block) -> Iterator[tuple[WeightEdit, dict[str, Tensor]]]:
    for roles in sites(block, packed):
        site = Site(block.number, roles)
        digests = replaced_digests(task.source.blocks, block, roles)
        if roles in block.pairs:
            a, b = block.pairs[roles].a, block.pairs[roles].b
            names = (f"{site}.A", f"{site}.B")
            yield (LowRank(site, (a.shape[0], b.shape[1]), a.shape[1], names, digests),
                   dict(zip(names, (a, b), strict=True)))
        else:
            weight = torch.cat([block.weight(role) for role in roles], dim=1)
            yield ReplaceWeight(site, f"{site}.W", digests), {f"{site}.W": weight}
