"""quantize_weight in PyTorch: what stands at a site, as few bits hold it."""

from __future__ import annotations

from foldrank.edits.quantize_weight import QuantizeWeight
from foldrank.errors import PlanMismatch
from foldrank.plans.reference.model import Model


def edit(few: QuantizeWeight, model: Model) -> None:
    """A weight, or both factors of a pair, each by itself."""
    linears = model.layers[few.site.block].linears(few.site.role)
    if not few.held:
        for linear in linears:
            model.round(linear, few.storage)
        return
    if len(linears) != len(few.held):
        raise PlanMismatch(few.site, f"numbers of {len(few.held)} matrices for {len(linears)}", "plan again")
    for linear, numbers in zip(linears, few.held, strict=True):
        model.hold(linear, few.storage, numbers)
