"""quantize_head in PyTorch: a head of its own, rounded to what few bits can say."""

from __future__ import annotations

from foldrank.edits.quantize_head import QuantizeHead
from foldrank.plans.reference.model import Model


def edit(few: QuantizeHead, model: Model) -> None:
    """An embedding that it was tied to stays."""
    model.own_head()
    if few.held:
        model.hold(model.head, few.storage, few.held[0])
    else:
        model.round(model.head, few.storage)
