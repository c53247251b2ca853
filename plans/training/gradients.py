"""Loss and gradients of a compressed model against the dense one, within a bound of memory.

Forward block by block; what enters each is kept. The head's logits are made a few tokens at a time, of both models, and
so is the gradient that they give the last hidden state: that of KL(dense || compressed) in the compressed model's
logits is p' - p. Backward block by block too: a block's graph is kept from the forward pass as long as there is room,
from the last down, and made again below that (gradient checkpointing, arXiv 1604.06174). Nothing goes back below the
lowest block that is trained, unless the table of words is. Measuring needs as little: no block is made before it is
run.

Axes: N windows, T tokens, C channels, V vocabulary. Knows blocks and losses. Knows nothing of optimizers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from foldrank.plans.models.decoder import Decoder
from foldrank.plans.training.adapters import Adapter
from foldrank.plans.training.stored import Stored
from foldrank.plans.training.teacher import Teacher

Target = Literal["logits", "features", "both"]
"""What of the dense model is aimed at: its logits, the outputs of its blocks (PELA, arXiv 2310.10700), or the sum."""
TARGETS: tuple[Target, ...] = get_args(Target)

LOGITS = 1 << 23
"""Logits of one model that are held at once (tokens times vocabulary), at least one token's."""

GRAPHS = 1 << 30
"""Bytes of graphs that are kept from the forward pass."""


@dataclass(frozen=True)
class Gradients:
    """`graphs`: bytes for those of blocks; `logits`: how many are held at once."""

    stored: Stored
    adapted: Adapter
    teacher: Teacher
    target: Target = "logits"
    graphs: int = GRAPHS
    logits: int = LOGITS
    _graph_bytes: dict[tuple[int, ...], int] = field(default_factory=dict)

    @property
    def source(self) -> Decoder:
        """The dense model."""
        return self.stored.source

    def around(self) -> Decoder:
        """The compressed model's table of words and head, as they are now."""
        return self.stored.around(self.adapted.matrix)

    def backward(self, ids_NT: np.ndarray) -> float:
        """Add the gradients of the loss to those of the parameters that require one. The loss: nats a token, mean
        squared error of features over their energy, or the sum of both."""
        with torch.enable_grad():
            around = self.around()
            embedded = around.embed(ids_NT)
        numbers, lowest = self.stored.numbers, self._lowest(embedded)
        matches = self._matches() if self.target != "logits" else {}
        wanted = self._wanted(ids_NT, matches)
        inputs, graphs = self._forward(embedded.detach(), lowest)
        hidden = inputs.pop()
        loss, gradient = 0.0, torch.zeros_like(hidden)
        head = torch.zeros_like(around.head) if around.head.requires_grad else None
        if self.target != "features":
            gradient = torch.empty_like(hidden)
            last = wanted[self.source.blocks[-1].number]
            loss = divergence(self.source, last, hidden, gradient, head, most=self.logits, compressed=around)
        for position in range(len(numbers) - 1, max(lowest, 0) - 1, -1):
            if numbers[position] in matches:
                error, slope = distance(wanted[matches[numbers[position]]], hidden)
                loss, gradient = loss + error / len(matches), gradient + slope / len(matches)
            entering = inputs.pop()
            known = position in graphs
            entered, left = graphs.pop(position) if known else self._run(
                numbers[position], entering, position > lowest)
            torch.autograd.backward(left, gradient.to(left.dtype))
            if entered.grad is not None:
                gradient = entered.grad
            hidden = entering
        ends = [(around.head, head)] if head is not None else []
        ends += [(embedded, gradient)] if embedded.requires_grad else []
        if ends:  # at once, as both may come of one pair
            torch.autograd.backward([end for end, _ in ends], [slope for _, slope in ends])
        return loss

    def loss(self, ids_NT: np.ndarray) -> float:
        """Mean KL(dense || compressed) of the logits in nats a token, whatever is aimed at."""
        with torch.no_grad():
            around = self.around()
            hidden = around.embed(ids_NT)
            for number in self.stored.numbers:
                hidden = self.source.run(self.stored.block(number, self.adapted.matrix), hidden)
        return divergence(self.source, self.teacher.last(ids_NT), hidden, most=self.logits, compressed=around)

    def _forward(self, hidden: Tensor, lowest: int) -> tuple[list[Tensor], dict[int, tuple[Tensor, Tensor]]]:
        """What enters every block, from `hidden` [N, T, C] on, and leaves the last; of the upper blocks the graphs too,
        by position."""
        numbers = self.stored.numbers
        one = numbers[min(max(lowest, 0), len(numbers) - 1)]
        kept = max(lowest, len(numbers) - self.graphs // max(1, self._bytes(one, hidden)))
        inputs = [hidden]
        graphs: dict[int, tuple[Tensor, Tensor]] = {}
        for position, number in enumerate(numbers):
            if position >= kept:
                graphs[position] = self._run(number, hidden, position > lowest)
                hidden = graphs[position][1].detach()
            else:
                with torch.no_grad():
                    hidden = self._output(number, hidden)
            inputs.append(hidden)
        return inputs, graphs

    def _run(self, number: int, hidden_NTC: Tensor, through: bool) -> tuple[Tensor, Tensor]:
        """What enters a block and what leaves it, with the graph between. `through`: whether the input wants a
        gradient too."""
        entered = hidden_NTC.detach().requires_grad_(through)
        with torch.enable_grad():
            return entered, self._output(number, entered)

    def _output(self, number: int, hidden_NTC: Tensor) -> Tensor:
        with mixed(self.source.device):
            return self.source.run(self.stored.block(number, self.adapted.matrix), hidden_NTC)

    def _lowest(self, embedded: Tensor) -> int:
        """Position of the lowest block that has to do with a parameter that is trained: one behind the last where the
        head alone is, -1 where the table of words is."""
        if embedded.requires_grad:
            return -1
        trained = {number for name, parameter in self.adapted.parameters.items() if parameter.requires_grad
                   for number in self.adapted.blocks[name]}
        numbers = self.stored.numbers
        return min((numbers.index(number) for number in trained), default=len(numbers))

    def _bytes(self, number: int, hidden_NTC: Tensor) -> int:
        """Of the graph of a block on such a batch, its weights where those are made for it."""
        key = (number, *hidden_NTC.shape)
        if key not in self._graph_bytes:
            with _saved() as found:
                self._run(number, hidden_NTC, True)
            own = {parameter.untyped_storage().data_ptr() for parameter in self.adapted.parameters.values()}
            self._graph_bytes[key] = sum(size for place, size in found.items() if place not in own)
        return self._graph_bytes[key]

    def _matches(self) -> dict[int, int]:
        """Source number of every block left -> that of the dense block whose output it is to have: itself, or the last
        of those folded into it; the last block left has the dense model's last."""
        found = {block.number: max([block.number, *(number for terms in block.origin.values() for number in terms)])
                 for block in self.stored.folded.blocks}
        return found | {self.stored.numbers[-1]: self.source.blocks[-1].number}

    def _wanted(self, ids_NT: np.ndarray, matches: dict[int, int]) -> dict[int, Tensor]:
        if matches:
            return self.teacher.features(ids_NT, [*matches.values()])
        return {self.source.blocks[-1].number: self.teacher.last(ids_NT)}


def divergence(
    source: Decoder, wanted_NTC: Tensor, hidden_NTC: Tensor, gradient_NTC: Tensor | None = None,
    head_CV: Tensor | None = None, *, most: int = LOGITS, compressed: Decoder | None = None,
) -> float:
    """Mean KL(dense || compressed) in nats a token, given the last blocks' outputs of both; its gradient in the second
    is written to `gradient_NTC`, that in the head [C, V] added to `head_CV`. At most `most` logits of each are held.
    `compressed`: with a head of its own."""
    own = compressed or source
    total, tokens = 0.0, hidden_NTC.shape[0] * hidden_NTC.shape[1]
    for place in _pieces(hidden_NTC.shape[0], hidden_NTC.shape[1], max(1, most // source.vocabulary)):
        hidden = hidden_NTC[place].detach().requires_grad_(gradient_NTC is not None)
        with torch.no_grad():
            wanted = source.logits(wanted_NTC[place]).to(torch.float32).log_softmax(-1)
        with torch.set_grad_enabled(gradient_NTC is not None):
            logits = own.logits(hidden).to(torch.float32)
        found = logits.detach().log_softmax(-1)
        likely = wanted.exp()
        total += float((likely * (wanted - found)).sum(dtype=torch.float64))
        if gradient_NTC is not None:
            slope = found.exp_().sub_(likely).div_(tokens)
            asked = [hidden] if head_CV is None else [hidden, own.head]
            gradient_NTC[place], *more = torch.autograd.grad(logits, asked, slope)
            if head_CV is not None:
                head_CV += more[0]
    return total / tokens


def distance(wanted_NTC: Tensor, hidden_NTC: Tensor) -> tuple[float, Tensor]:
    """Mean over the tokens of |h - h'|^2 / |h|^2, and its gradient in h'. Token by token, since a few have hidden
    states hundreds of times as long as others."""
    error = hidden_NTC - wanted_NTC
    energy = wanted_NTC.square().sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    tokens = error.shape[0] * error.shape[1]
    loss = float((error.square().sum(-1, keepdim=True) / energy).sum(dtype=torch.float64)) / tokens
    return loss, error * (2 / tokens) / energy


def _pieces(windows: int, tokens: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Whole windows, as many as have `size` tokens together, or parts of one."""
    if size >= tokens:
        for first in range(0, windows, size // tokens):
            yield slice(first, first + size // tokens), slice(None)
        return
    for window in range(windows):
        for first in range(0, tokens, size):
            yield slice(window, window + 1), slice(first, first + size)


def mixed(device: torch.device) -> torch.autocast:
    """On a GPU products in bfloat16, parameters, sums and losses in float32; on a CPU all in float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type != "cpu")


@contextmanager
def _saved() -> Iterator[dict[int, int]]:
    """Bytes of every storage that graphs made within keep, by its address."""
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found
