"""fold_blocks for the planner: projections combined in float64, norm gains of one of the blocks, the others gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from foldrank.digests import combine
from foldrank.edits.fold_blocks import FoldBlocks
from foldrank.plans.models.block import Block, widened
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.models.families import Family


def simulated(edit: FoldBlocks, decoder: Decoder, arrays: Mapping[str, np.ndarray]) -> Decoder:
    """The decoder after the fold."""
    merged = merge(decoder.blocks, edit)
    kept = [block for block in decoder.blocks if block.number not in edit.leaving]
    return decoder.with_blocks([merged if block.number == edit.into else block for block in kept])


def merge(blocks: Sequence[Block], fold: FoldBlocks) -> Block:
    """The block a fold leaves at `into`: combined projections and biases, norm gains of `norm_source`, float32."""
    named = {block.number: block for block in blocks}
    parts = [named[number] for number in fold.blocks]
    norms, into = named[fold.norm_source], named[fold.into]
    tensors: dict[str, Tensor] = {}
    for name in into.tensors:
        if (role := role_of(into.family, name)) is not None:
            tensors[name] = _combined([part.tensors[name] for part in parts], fold.of(role))
        else:
            tensors[name] = norms.tensors[name]
    return replace(into, tensors=tensors, origin={role: fold.of(role) for role in into.family.roles})


def _combined(tensors: Sequence[Tensor], terms: Mapping[int, float]) -> Tensor:
    coefficients = [*terms.values()]
    for coefficient, tensor in zip(coefficients, tensors, strict=True):
        if coefficient == 1.0 and sum(c != 0.0 for c in coefficients) == 1:
            return tensor  # shared, not copied
    found = combine([widened(t).cpu().numpy() for t in tensors], coefficients)
    return torch.from_numpy(found).to(tensors[0].device)


def role_of(family: Family, name: str) -> str | None:
    """The first role of the projection that a block's tensor belongs to; None: it is a norm's."""
    return next((roles[0] for path, roles in family.linears.items() if name.startswith(f"{path}.")), None)
