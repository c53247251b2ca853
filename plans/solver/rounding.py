"""What storing a site in few bits is expected to cost in nats, each rounded by itself.

For a change dW [I, O] the loss rises by 1/2 tr(dW^T G dW F) (`fisher.py`), dW what rounding leaves of W: to nearest,
times how much less careful rounding leaves (`RELIEF`). Careful rounding of all sites would take as long as a plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import torch

from foldrank.edits.storage import FewBits
from foldrank.plans.models.block import Block
from foldrank.plans.models.rounding import rounded
from foldrank.plans.solver.fisher import Moments
from foldrank.plans.solver.layout import Roles

Rounding = Mapping[int, Mapping[Roles, Mapping[int, float]]]
"""Nats by source number, site and bits."""

RELIEF: Final = {4: 0.4, 8: 0.5}
"""Of nearest's loss, what `quantize` leaves by bits."""


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
            nats = float(((inputs @ lost) * (lost @ outputs)).sum()) / (2 * tokens * tokens)
            found[roles][storage.bits] = nats * RELIEF[storage.bits]
    return found
