"""quantize_weight in PyTorch: what stands at a site, rounded to what few bits can say."""

from __future__ import annotations

from foldrank.edits.quantize_weight import QuantizeWeight
from foldrank.plans.reference.model import Model


def edit(few: QuantizeWeight, model: Model) -> None:
    """A weight, or both factors of a pair, each by itself."""
    for linear in model.layers[few.site.block].linears(few.site.role):
        model.round(linear, few.storage)
