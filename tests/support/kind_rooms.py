"""What tests of kinds name: the anatomy of a small decoder, and what their fixtures are."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
import torch
from synthetic import PlanMaker

from foldrank.edits import Edit
from foldrank.edits.anatomy import Anatomy, BlockAnatomy, Matrix

Edited = Callable[[PlanMaker], ir.Model]
Rooms = Callable[[list[Edit], Mapping[str, np.ndarray]], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]

ANATOMY = Anatomy(
    tuple(BlockAnatomy(number, {
        **{role: Matrix((48, 64 if role == "q" else 32)) for role in "qkv"}, "o": Matrix((64, 48)),
        **{role: Matrix((48, 80)) for role in ("gate", "up")}, "down": Matrix((80, 48))}) for number in range(4)),
    Matrix((48, 50)), True, 4, 2, 16,
)
"""Of `random_decoder(Shape())`."""

SIX: tuple[tuple[int, str], ...] = ((0, "attention"), (1, "mlp"), (3, "attention"), (3, "mlp"), (5, "attention"))
"""Of six blocks: block 0 loses its attention, block 3 both branches, the last its attention."""
