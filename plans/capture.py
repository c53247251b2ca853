"""What a model's own forward does around its blocks, asked of the model itself with recorders in the blocks' places.

So every family and every version of transformers builds masks, rotary tables, positions, scaled embeddings, final norms
and soft-capped logits its own way. No block is run, so no hook on one sees anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Arguments:
    """What a block is called with besides the hidden states."""

    positional: tuple[Any, ...]
    named: dict[str, Any]


class _Recorder(nn.Module):
    """Stands in for a block: notes its call and hands on its input, or `output` where one is given."""

    def __init__(self, layer: nn.Module, output: Tensor | None) -> None:
        super().__init__()
        self.attention_type = getattr(layer, "attention_type", None)  # transformers 4 picks the mask by it
        self.output = output
        self.arguments = Arguments((), {})
        self.hidden: Tensor | None = None

    def forward(self, hidden_states: Tensor, *positional: Any, **named: Any) -> Tensor:
        self.hidden, self.arguments = hidden_states, Arguments(positional, named)
        return hidden_states if self.output is None else self.output


@contextmanager
def _recorders(model: Any, path: str, output: Tensor | None = None) -> Iterator[list[_Recorder]]:
    parent_path, _, name = path.rpartition(".")
    parent = model.get_submodule(parent_path)
    layers = getattr(parent, name)
    stand_ins = [_Recorder(layer, output) for layer in layers]
    setattr(parent, name, nn.ModuleList(stand_ins))
    try:
        yield stand_ins
    finally:
        setattr(parent, name, layers)


def block_arguments(model: Any, path: str, window: int) -> tuple[Arguments, ...]:
    """Arguments of each block at `path` for a batch of one window of this length; they broadcast over a batch."""
    with _recorders(model, path) as recorders, torch.no_grad():
        model.base_model(input_ids=_zeros(model, 1, window), use_cache=False)
    return tuple(recorder.arguments for recorder in recorders)


def first_input(model: Any, path: str, ids_NT: Tensor) -> Tensor:
    """What the first block at `path` is given [N, T, C]: embeddings, scaled and with positions as the family does."""
    with _recorders(model, path) as recorders, torch.no_grad():
        model.base_model(input_ids=ids_NT, use_cache=False)
    found = recorders[0].hidden
    assert found is not None
    return found


def last_state(model: Any, path: str, hidden_NTC: Tensor) -> Tensor:
    """The last hidden state after the final norm, where the last block's output is this."""
    with _recorders(model, path, hidden_NTC):
        return model.base_model(input_ids=_zeros(model, *hidden_NTC.shape[:2]), use_cache=False).last_hidden_state


def logits_of(model: Any, path: str, hidden_NTC: Tensor) -> Tensor:
    """Logits [N, T, V], where the last block's output is this."""
    with _recorders(model, path, hidden_NTC):
        return model(input_ids=_zeros(model, *hidden_NTC.shape[:2]), use_cache=False).logits


def _zeros(model: Any, count: int, window: int) -> Tensor:
    return torch.zeros((count, window), dtype=torch.long, device=next(model.parameters()).device)
