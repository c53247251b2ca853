"""From refit blocks to what a method gives back: folds, pairs, and new weights for the sites that stayed dense.

Knows nothing of how the blocks were chosen or fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldrank.edits import Edit, FoldBlocks, LowRank, ReplaceWeight
from foldrank.plans.low_rank.factoring import replaced_digests
from foldrank.plans.method import Result, Task
from foldrank.plans.solver.block_refit import Fitted
from foldrank.plans.solver.layout import Packed, Span
from foldrank.plans.solver.original import sites
from foldrank.plans.solver.search import State


def fitted_result(
    task: Task, packed: Packed, state: State, kept: float, predicted: Mapping[str, float | int],
    diagnostics: Mapping[str, Any],
) -> Result:
    """The model with these blocks, and the edits that lead a graph there."""
    folds: list[FoldBlocks] = [span.fold for span in state.layout if span.fold is not None]
    known = {**task.folds, **{fold.into: fold for fold in folds}}
    edits: list[Edit] = list(folds)
    arrays: dict[str, np.ndarray] = {}
    for span, fitted in zip(state.layout, state.fitted, strict=True):
        for edit, named in _site_edits(task, packed, known, span, fitted):
            edits.append(edit)
            arrays |= {name: np.ascontiguousarray(array.cpu().numpy()) for name, array in named.items()}
    return Result(
        task.decoder.with_blocks(state.blocks), tuple(edits), kept, arrays, predicted, diagnostics,
    )


def _site_edits(
    task: Task, packed: Packed, folds: Mapping[int, FoldBlocks], span: Span, fitted: Fitted
) -> Iterator[tuple[LowRank | ReplaceWeight, dict[str, Tensor]]]:
    for roles in sites(fitted.block, packed):
        site = span.site(roles)
        digests = replaced_digests(task.source.blocks, folds.get(span.low), span.low, roles)
        if roles in fitted.pairs:
            a, b = fitted.pairs[roles]
            names = (f"{site}.A", f"{site}.B")
            yield (LowRank(site, (a.shape[0], b.shape[1]), a.shape[1], names, digests),
                   dict(zip(names, (a, b), strict=True)))
        else:
            weight = torch.cat([fitted.block.weight(role) for role in roles], dim=1)
            yield ReplaceWeight(site, f"{site}.W", digests), {f"{site}.W": weight}
