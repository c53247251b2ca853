"""What a model's own forward hands to each block besides the hidden states: causal mask, rotary tables, positions.

Asked of the model itself, so that every family and every version of transformers builds them its own way.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _Recorder(nn.Module):
    """Stands in for a block, notes the keyword arguments it is called with and hands its input on."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.attention_type = getattr(layer, "attention_type", None)  # transformers 4 picks the mask by it
        self.arguments: dict[str, Any] = {}

    def forward(self, hidden_states: Tensor, **arguments: Any) -> Tensor:
        self.arguments = arguments
        return hidden_states


def block_arguments(model: Any, window: int) -> tuple[dict[str, Any], ...]:
    """Keyword arguments of each block for a batch of one window of this length; they broadcast over a batch.

    No block is run, so no hook on one sees anything.
    """
    layers = model.model.layers
    recorders = [_Recorder(layer) for layer in layers]
    model.model.layers = nn.ModuleList(recorders)
    try:
        with torch.no_grad():
            ids = torch.zeros((1, window), dtype=torch.long, device=model.model.embed_tokens.weight.device)
            model.model(input_ids=ids, use_cache=False)
    finally:
        model.model.layers = layers
    return tuple(recorder.arguments for recorder in recorders)
