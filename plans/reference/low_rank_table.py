"""low_rank_table in PyTorch: two Linears in the head's place, a table of B^T and a product behind it in the table's."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from foldrank.edits.base import EMBEDDING, HEAD
from foldrank.edits.low_rank_table import LowRankTable
from foldrank.errors import PlanMismatch
from foldrank.plans.reference.model import Model
from foldrank.plans.reference.modules import Looked


def edit(pair: LowRankTable, model: Model) -> None:
    """One pair for both are the same two parameters. An embedding that the head was tied to stays as it is."""
    a_CR, b_RV = (torch.from_numpy(model.arrays[name].copy()) for name in pair.factors)
    head, table = model.head, model.table
    for part, module in ((HEAD, head), (EMBEDDING, table)):
        if part in pair.parts and tuple(module.weight.shape) != (b_RV.shape[1], a_CR.shape[0]):
            what = f"is {list(module.weight.shape[::-1])}, its pair stands for {[a_CR.shape[0], b_RV.shape[1]]}"
            raise PlanMismatch(f"the {part}", what, "plan again")
    dtype = (head if HEAD in pair.parts else table).weight.dtype
    down, up = (nn.Parameter(factor.T.contiguous().to(dtype), requires_grad=False) for factor in (a_CR, b_RV))
    if HEAD in pair.parts:
        model.whole.set_output_embeddings(_product(down, up, head.bias))
    if EMBEDDING in pair.parts:
        model.whole.set_input_embeddings(Looked(_rows(table, up), down))


def _product(down_RC: nn.Parameter, up_VR: nn.Parameter, bias: nn.Parameter | None) -> nn.Sequential:
    """(x A) B."""
    (rank, width), words = down_RC.shape, len(up_VR)
    first, second = nn.Linear(width, rank, bias=False), nn.Linear(rank, words, bias=False)
    first.weight, second.weight = down_RC, up_VR
    second.register_parameter("bias", bias)
    return nn.Sequential(first, second)


def _rows(table: Any, up_VR: nn.Parameter) -> Any:
    """The family's own table, which may scale what it gives, of rows of B^T."""
    table.weight, table.embedding_dim = up_VR, up_VR.shape[1]
    return table
