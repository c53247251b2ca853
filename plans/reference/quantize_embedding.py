"""quantize_embedding in PyTorch: the table of words rounded to what few bits can say; the head stays tied to it, or is
left as it was."""

from __future__ import annotations

from foldrank.edits.quantize_embedding import QuantizeEmbedding
from foldrank.plans.reference.model import Model


def edit(few: QuantizeEmbedding, model: Model) -> None:
    """The table, and the head where they are one."""
    if few.head:
        model.tie()
    elif model.tied:
        model.own_head()
    model.round_table(few.stored, few.storage if few.head else None)
