"""What a model's own forward does around its blocks, asked of the model itself with recorders in the blocks' places.

So every family and every version of transformers builds masks, rotary tables, positions, scaled embeddings, final norms
and soft-capped logits its own way. No block is run, so no hook on one sees anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Arguments:
    """What a block is called with besides the hidden states."""

    positional: tuple[Any, ...]
    named: dict[str, Any]


class _Unwrapped(Exception):
    """The model took a row of what it was given: its blocks give tuples."""


class _Recorder(nn.Module):
    """Stands in for a block: notes its call and hands on its input, or `output` where one is given.

    `wrapped`: in a tuple, as the blocks of some families (and of more of them in transformers 4) do.
    """

    def __init__(self, layer: nn.Module, before: _Recorder | None, output: Tensor | None, *, wrapped: bool) -> None:
        super().__init__()
        self.attention_type = getattr(layer, "attention_type", None)  # transformers 4 picks the mask by it
        self.output, self.wrapped = output, wrapped
        self.arguments = Arguments((), {})
        self.hidden: Tensor | None = None
        self.given = torch.Size()
        self._before = [before] if before is not None else []  # in a list: no submodule

    def forward(self, hidden_states: Tensor, *positional: Any, **named: Any) -> Tensor | tuple[Tensor]:
        if self._before and self._before[0].given != hidden_states.shape:
            raise _Unwrapped
        self.hidden, self.arguments = hidden_states, Arguments(positional, named)
        output = hidden_states if self.output is None else self.output
        self.given = output.shape
        return (output,) if self.wrapped else output


@contextmanager
def _recorders(model: Any, path: str, output: Tensor | None, *, wrapped: bool) -> Iterator[list[_Recorder]]:
    parent_path, _, name = path.rpartition(".")
    parent = model.get_submodule(parent_path)
    layers = getattr(parent, name)
    stand_ins: list[_Recorder] = []
    for layer in layers:
        stand_ins.append(_Recorder(layer, stand_ins[-1] if stand_ins else None, output, wrapped=wrapped))
    setattr(parent, name, nn.ModuleList(stand_ins))
    try:
        yield stand_ins
    finally:
        setattr(parent, name, layers)


def _record(
    model: Any, path: str, call: Callable[..., Any], ids_NT: Tensor, output: Tensor | None = None
) -> tuple[Any, list[_Recorder]]:
    """What `call` gives for these tokens with recorders in the blocks' places, and the recorders."""
    for wrapped in (False, True):
        with _recorders(model, path, output, wrapped=wrapped) as stand_ins, suppress(_Unwrapped):
            return call(input_ids=ids_NT, use_cache=False), stand_ins
    raise AssertionError(f"{type(model).__name__} does something to hidden states between its blocks")


def block_arguments(model: Any, path: str, window: int) -> tuple[Arguments, ...]:
    """Arguments of each block at `path` for a batch of one window of this length; they broadcast over a batch."""
    with torch.no_grad():
        _, recorders = _record(model, path, model.base_model, _zeros(model, 1, window))
    return tuple(recorder.arguments for recorder in recorders)


def first_input(model: Any, path: str, ids_NT: Tensor) -> Tensor:
    """What the first block at `path` is given [N, T, C]: embeddings, scaled and with positions as the family does."""
    _, recorders = _record(model, path, model.base_model, ids_NT)
    found = recorders[0].hidden
    assert found is not None
    return found


def last_state(model: Any, path: str, hidden_NTC: Tensor) -> Tensor:
    """The last hidden state after the final norm, where the last block's output is this."""
    found, _ = _record(model, path, model.base_model, _zeros(model, *hidden_NTC.shape[:2]), hidden_NTC)
    return found.last_hidden_state


def logits_of(model: Any, path: str, hidden_NTC: Tensor) -> Tensor:
    """Logits [N, T, V], where the last block's output is this."""
    found, _ = _record(model, path, model, _zeros(model, *hidden_NTC.shape[:2]), hidden_NTC)
    return found.logits


def _zeros(model: Any, count: int, window: int) -> Tensor:
    return torch.zeros((count, window), dtype=torch.long, device=next(model.parameters()).device)
