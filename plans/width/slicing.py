"""From chosen channels to what a method gives back: edits, arrays, and the model that runs them.

Knows nothing of how channels were chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from foldrank.digests import in_threads
from foldrank.edits.base import BRANCHES
from foldrank.edits.slice_mlp import Channels, SliceMlp
from foldrank.plans.low_rank.factoring import replaced_digests
from foldrank.plans.method import Result, Task
from foldrank.plans.models.block import Block
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.shelf import Finding, States
from foldrank.plans.simulate import apply_edits
from foldrank.plans.width.budget import Mlp

Step = Callable[[Block, States], tuple[Finding, States]]
"""Of a walk (`plans/shelf.py`)."""


@dataclass(frozen=True)
class Slicing:
    """Channels [K] of one block that stay, ascending; another down [K, out], and a bias [out], or none."""

    block: int
    kept: Tensor
    down: Tensor | None = None
    bias: Tensor | None = None


def roles_of(block: Block) -> tuple[str, ...]:
    """Roles of the block's MLP that the family has."""
    return tuple(role for role in BRANCHES["mlp"] if role in block.roles)


def mlps_of(blocks: Iterable[Block]) -> tuple[Mlp, ...]:
    """The MLP of every block that has one."""
    return tuple(
        Mlp(block.number, len(block.weight("down")), block.weight("down").shape[1] * len(roles_of(block)))
        for block in blocks if "down" in block.roles)


def over_mlps(decoder: Decoder, step: Step, numbers: Container[int] | None = None) -> Step:
    """The step on blocks of these numbers, or on all with an MLP, for a walk on which the others are only run."""
    def passing(block: Block, states: States) -> tuple[Finding, States]:
        if block.number in numbers if numbers is not None else "down" in block.roles:
            return step(block, states)
        return Finding(), {name: decoder.run(block, hidden) for name, hidden in states.items()}

    return passing


def result(task: Task, slicings: Iterable[Slicing], diagnostics: dict[str, Any] | None = None) -> Result:
    """The model with these channels; blocks that lose none are left out."""
    blocks = {block.number: block for block in task.decoder.blocks}
    cut = [s for s in slicings if len(s.kept) < len(blocks[s.block].weight("down"))]
    edits = tuple(in_threads(lambda slicing: _edit(task, blocks[slicing.block], slicing), cut))
    arrays = {name: np.ascontiguousarray(tensor.float().cpu().numpy())
              for slicing in cut for name, tensor in (_names(slicing)).items()}
    decoder = apply_edits(edits, task.decoder, arrays)
    return Result(decoder, edits, decoder.site_parameters / task.decoder.site_parameters, arrays,
                  diagnostics=diagnostics or {})


def _edit(task: Task, block: Block, slicing: Slicing) -> SliceMlp:
    down, names = block.weight("down"), _names(slicing)
    return SliceMlp(
        block.number, (down.shape[0], down.shape[1]), Channels(tuple(slicing.kept.tolist())),
        next((name for name in names if name.endswith(".down")), None),
        next((name for name in names if name.endswith(".bias")), None),
        replaced_digests(task.source.blocks, block, roles_of(block)))


def _names(slicing: Slicing) -> dict[str, Tensor]:
    base = f"block.{slicing.block:02d}.mlp"
    held = {f"{base}.down": slicing.down, f"{base}.bias": slicing.bias}
    return {name: tensor for name, tensor in held.items() if tensor is not None}
