"""What a graph of two bytes stores, in the reference: its arithmetic stays as it is, its numbers are rounded as there.

So the graph can be held to float32's limit, in float32: what rounding costs a model is no fault of its graph.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from foldrank.plans.models.rounding import NAMES

_FACTORS = ("residual_multiplier", "embedding_multiplier")
"""Numbers that families multiply by, of which exporters make constants."""


@dataclass(frozen=True)
class Stored:
    """`floats`: fp32, fp16 or bf16. `rotary`: whether RoPE's cosines and sines are stored, and not computed. `norms`:
    whether gains are stored in them too, and not in float32."""

    floats: str = "fp32"
    rotary: bool = False
    norms: bool = True

    @property
    def dtype(self) -> torch.dtype:
        """PyTorch's."""
        return NAMES[self.floats]

    def round(self, model: nn.Module, but: Collection[int] = ()) -> None:
        """Round what a model holds, in place, as often as it is edited; not modules whose `id` is among `but`."""
        if self.floats == "fp32":
            return
        for module in model.modules():
            if not self.norms and "Norm" in type(module).__name__:
                continue
            for name, held in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
                if id(module) not in but and (isinstance(held, nn.Parameter) or name == "embed_scale"):
                    held.data.copy_(held.data.to(self.dtype))
            for name in _FACTORS:
                if isinstance(factor := getattr(module, name, None), float):
                    setattr(module, name, float(torch.tensor(factor, dtype=self.dtype)))

    def round_rotary(self, model: nn.Module) -> None:
        """Round RoPE's cosines and sines, in place and once."""
        def rounded(_module: Any, _given: Any, tables: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            return tuple(table.to(self.dtype).to(table.dtype) for table in tables)

        for module in model.modules() if self.rotary and self.floats != "fp32" else ():
            if type(module).__name__.endswith("RotaryEmbedding"):
                module.register_forward_hook(rounded)
