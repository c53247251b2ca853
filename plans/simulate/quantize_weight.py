"""quantize_weight for the planner: a weight, or each factor of a pair, as few bits hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from foldrank.edits.quantize_weight import QuantizeWeight
from foldrank.plans.models.block import Block, Roles
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.models.packing import held_in, unpacked
from foldrank.plans.models.rounding import rounded


def simulated(edit: QuantizeWeight, decoder: Decoder, arrays: Mapping[str, np.ndarray]) -> Decoder:
    """The decoder with the site rounded; a pair of several roles is rounded with the first of them, or holds what is
    planned of B's columns role by role."""
    block, role, storage = decoder.block(edit.site.block), edit.site.role, edit.storage
    roles = next((roles for roles in block.pairs if role in roles), None)
    if edit.held:
        return _planned(edit, decoder, roles, arrays)
    if roles is None:
        return decoder.with_block(_stored(block, edit, rounded(block.weight(role), storage)))
    if role != roles[0]:
        return decoder
    pair = block.pairs[roles]
    few = replace(pair, a=rounded(pair.a, storage), b=rounded(pair.b, storage))
    return decoder.with_block(block.with_pairs({roles: few}))


def _stored(block: Block, edit: QuantizeWeight, weight_IO: Tensor) -> Block:
    """The block with other numbers at the site; other blocks that read its weight read them too, if stored alike."""
    made, role = block.with_weights({edit.site.role: weight_IO}), edit.site.role
    if role not in block.shared:
        return made
    how = f"{edit.storage.in_full()} {' '.join(edit.arrays())}"
    return replace(made, shared={**made.shared, role: f"{block.shared[role]} {how}"})


def _planned(
    edit: QuantizeWeight, decoder: Decoder, roles: Roles | None, arrays: Mapping[str, np.ndarray]
) -> Decoder:
    block, role = decoder.block(edit.site.block), edit.site.role
    rows = [edit.shape[0]] if roles is None else [edit.shape[0], block.pairs[roles].a.shape[1]]
    parts = [unpacked(held_in(arrays, numbers), edit.storage, count).values.to(decoder.device)
             for numbers, count in zip(edit.held, rows, strict=True)]
    if roles is None:
        return decoder.with_block(_stored(block, edit, parts[0]))
    pair = block.pairs[roles]
    widths = [block.weight(other).shape[1] for other in roles]
    columns = list(pair.b.split(widths, dim=1))
    columns[roles.index(role)] = parts[1]
    return decoder.with_block(block.with_pairs({roles: replace(pair, a=parts[0], b=torch.cat(columns, dim=1))}))
