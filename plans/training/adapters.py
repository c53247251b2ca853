"""What recovery may change of a plan's stored matrices: the matrices themselves, low-rank updates, or norm gains.

    factors   every matrix the plan stores (A and B of pairs, replaced weights) is trained as it is
    lora      every stored or dense matrix M becomes M + 2 P Q, P Q of rank 8, and is merged back (arXiv 2106.09685)
    norms     the gains of a block's norms: y = (x * s) W is the same as x (diag(s) W), so the trained gains are
              written into the weights that read the norm, and a plan needs no edit of its own for them

Knows matrices by name. Knows nothing of losses or text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from foldrank.plans.training.stored import Stored

Kind = Literal["factors", "lora", "norms"]
RANK, SCALE = 8, 2.0
"""Of LoRA: rank 8 and alpha 16, as SLM's released recovery has them."""

RATES: dict[Kind, float] = {"factors": 1e-3, "lora": 2e-3, "norms": 1e-2}
"""Learning rate of AdamW at its peak."""

_NORMED = ("q", "k", "v"), ("gate", "up")
"""Roles that read what a block's first and second norm give."""


@dataclass(frozen=True)
class Adapter:
    """`parameters` are trained; `apply` gives every stored matrix made of them; `changed` names those that change."""

    parameters: tuple[Tensor, ...]
    apply: Callable[[], dict[str, Tensor]]
    changed: frozenset[str]


def adapter(kind: Kind, stored: Stored, generator: torch.Generator) -> Adapter:
    """Parameters that leave the model as it is until they are trained. Raises ValueError where there are none."""
    matrices = stored.matrices()
    made = {"factors": _factors, "lora": _lora, "norms": _norms}[kind](stored, matrices, generator)
    if not made.parameters:
        raise ValueError(f"recover {kind}: the plan stores nothing that it could train; take lora or norms")
    return made


def _factors(_stored: Stored, matrices: Mapping[str, Tensor], _generator: torch.Generator) -> Adapter:
    trained = {name: matrix.requires_grad_() for name, matrix in matrices.items()}
    return Adapter(tuple(trained.values()), lambda: dict(trained), frozenset(trained))


def _lora(_stored: Stored, matrices: Mapping[str, Tensor], generator: torch.Generator) -> Adapter:
    updates = {name: _update(matrix, generator) for name, matrix in matrices.items()}

    def apply() -> dict[str, Tensor]:
        return {name: matrix + SCALE * updates[name][0] @ updates[name][1] for name, matrix in matrices.items()}

    return Adapter(tuple(part for update in updates.values() for part in update), apply, frozenset(matrices))


def _update(matrix: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """P random, Q zero: P Q is zero at the start."""
    rank = min(RANK, *matrix.shape)
    p = torch.randn(matrix.shape[0], rank, generator=generator).to(matrix.device) / matrix.shape[0] ** 0.5
    return p.requires_grad_(), torch.zeros(rank, matrix.shape[1], device=matrix.device).requires_grad_()


def _norms(stored: Stored, matrices: Mapping[str, Tensor], _generator: torch.Generator) -> Adapter:
    gains: dict[tuple[int, int], Tensor] = {}
    scaled: dict[str, tuple[int, int]] = {}
    for site, names in stored.factors.items():
        for norm, roles in enumerate(_NORMED):
            if set(site.roles) <= set(roles):
                first = matrices[names[0]]
                key = (site.block, norm)
                gains.setdefault(key, torch.ones(first.shape[0], device=first.device).requires_grad_())
                scaled[names[0]] = key
    uses = Counter(names[0] for names in stored.factors.values())
    if shared := sorted(name for name in scaled if uses[name] > 1):
        raise ValueError(f"recover norms: {shared[0]} is shared by several blocks; take factors or lora")

    def apply() -> dict[str, Tensor]:
        return {
            name: gains[scaled[name]][:, None] * matrix if name in scaled else matrix
            for name, matrix in matrices.items()
        }

    return Adapter(tuple(gains.values()), apply, frozenset(scaled))
