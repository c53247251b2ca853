"""What storing a site in few bits is expected to cost in nats, each rounded by itself.

For a change dW [I, O] the loss rises by 1/2 tr(dW^T G dW F) (`fisher.py`), dW what rounding leaves of W: to nearest,
times how much less careful rounding leaves (`RELIEF`). Careful rounding of all sites would take as long as a plan. A
few blocks are rounded whole and measured, to tell by how much that is off low and high in the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from foldrank.edits.storage import FewBits
from foldrank.plans.models.block import Block
from foldrank.plans.models.rounding import rounded
from foldrank.plans.solver.layout import Roles
from foldrank.plans.solver.meter import Meter
from foldrank.plans.solver.moments import Moments, weighed

Rounding = Mapping[int, Mapping[Roles, Mapping[int, float]]]
"""Nats by source number, site and bits."""

RELIEF: Final = {2: 0.6, 4: 0.6, 8: 0.6}
"""Of nearest's loss, what `quantize` leaves by bits (KL, specs-300k: 0.63 in 4 bits)."""


def rounding_losses(
    block: Block, moments: Moments, tokens: int, storages: Iterable[FewBits]
) -> dict[Roles, dict[int, float]]:
    """Of every site of a block, by bits; a site that holds several roles is rounded role by role."""
    found: dict[Roles, dict[int, float]] = {}
    for roles, inputs in moments.inputs.items():
        weight = torch.cat([block.weight(role) for role in roles], dim=1)
        outputs = moments.outputs[roles]
        found[roles] = {}
        for storage in storages:
            lost = (rounded(weight, storage) - weight).double()
            nats = float(((inputs @ lost) * weighed(lost, outputs)).sum()) / (2 * tokens * tokens)
            found[roles][storage.bits] = nats * RELIEF[storage.bits]
    return found


def corrected(
    rounding: Rounding, blocks: Sequence[Block], storage: FewBits, meter: Meter, inputs: Sequence[Tensor], *,
    spots: int = 3,
) -> dict[int, dict[Roles, dict[int, float]]]:
    """The losses, scaled by what rounding some of the uncompressed model's blocks to nearest is measured to cost.

    `inputs`: of every block [N, T, C] on the windows of `meter`. Cost: that much of the model is run for each spot.
    """
    off: dict[int, float] = {}
    for position in sorted({round(spot) for spot in np.linspace(0, len(blocks) - 1, spots)}):
        block = blocks[position]
        few = block.with_weights({role: rounded(block.weight(role), storage) for role in block.roles})
        told = sum(nats[storage.bits] for nats in rounding[block.number].values()) / RELIEF[storage.bits]
        measured = meter.loss(inputs[position], (few, *blocks[position + 1 :]))
        if told > 0 and measured > 0:
            off[position] = measured / told
    places = sorted(off)
    factors = [off[place] for place in places] or [1.0]
    return {
        block.number: {roles: {bits: nats * float(np.interp(position, places or [0], factors))
                               for bits, nats in losses.items()}
                       for roles, losses in rounding[block.number].items()}
        for position, block in enumerate(blocks)
    }
