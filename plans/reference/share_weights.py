"""share_weights in PyTorch: Linears of two blocks with one Parameter; biases stay each block's own."""

from __future__ import annotations

from foldrank.edits.share_weights import ShareWeights
from foldrank.errors import PlanMismatch
from foldrank.plans.reference.model import Model


def edit(share: ShareWeights, model: Model) -> None:
    """The reader's Linear gets the lender's weight."""
    block, lender = (model.layers[number] for number in (share.block, share.of))
    for role in share.roles:
        if not (role in block.places and role in lender.places):
            what = f"the checkpoint's blocks {share.block} and {share.of} do not both have {role}"
            raise PlanMismatch(f"block {share.block}", what, "plan again")
        own, lent = block.linear(role), lender.linear(role)
        if own.weight.shape != lent.weight.shape:
            what = f"block {share.of} has another shape at {role}"
            raise PlanMismatch(f"block {share.block}", what, "plan again")
        own.weight = lent.weight
