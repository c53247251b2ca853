"""Gradients of the next-token loss, block by block from the top: one block's gradients are in memory at a time.

The forward pass keeps each block's input; going back, a block is run again and what reached its output is pulled
through it. Cost: two forward passes and a backward one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from foldrank.plans.models.block import Block
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.shelf import Finding, MemoryShelf, Shelf, States, walk
from foldrank.progress import SILENT, Progress


@dataclass(frozen=True)
class BlockGradients:
    """Gradients of the mean loss of each window, one mapping a window: parameter name to tensor, float32.

    `outputs`, one a window too: mean squared gradient of a number that a role's linear puts out.
    """

    block: Block
    windows: tuple[Mapping[str, Tensor], ...]
    outputs: tuple[Mapping[str, float], ...]

    def summed(self) -> dict[str, Tensor]:
        """Sum over the windows, by parameter."""
        return {name: torch.stack([w[name] for w in self.windows]).sum(dim=0) for name in self.windows[0]}


def reduced(
    decoder: Decoder, ids_NT: np.ndarray, reduce: Callable[[BlockGradients], Finding], shelf: Shelf | None = None,
    progress: Progress = SILENT,
) -> dict[int, Finding]:
    """What `reduce` makes of every block's gradients, by block number, from the top block to the lowest.

    What is found and what arrives at the next block lie on the shelf: an interrupted pass repeats the forward pass and
    at most one block.
    """
    inputs: dict[int, Tensor] = {}

    def start() -> States:
        hidden = _forward(decoder, ids_NT, inputs)
        return {"arriving": torch.cat([_at_the_top(decoder, hidden[n : n + 1], ids_NT[n]) for n in range(len(ids_NT))])}

    def step(block: Block, states: States) -> tuple[Finding, States]:
        if not inputs:
            _forward(decoder, ids_NT, inputs)
        passed = [
            _through(decoder, block, hidden[None], arriving[None])
            for hidden, arriving in zip(inputs.pop(block.number), states["arriving"], strict=True)
        ]
        found = BlockGradients(block, tuple(found for _, found, _ in passed), tuple(sizes for _, _, sizes in passed))
        return reduce(found), {"arriving": torch.cat([below for below, _, _ in passed])}

    return walk(tuple(reversed(decoder.blocks)), (shelf or MemoryShelf()).under("gradients"), start, step,
                stage="gradients", device=decoder.device, progress=progress)


def _forward(decoder: Decoder, ids_NT: np.ndarray, inputs: dict[int, Tensor]) -> Tensor:
    """Output [N, T, C] of the last block; puts every block's input down by its number."""
    hidden = decoder.embed(ids_NT)
    with torch.no_grad():
        for block in decoder.blocks:
            inputs[block.number] = hidden
            hidden = decoder.run(block, hidden)
    return hidden


@contextmanager
def _outputs(block: Block) -> Iterator[dict[str, Tensor]]:
    """What each role's linear puts out [N, T, out] when the block is run; a packed one stands under all its roles."""
    found: dict[str, Tensor] = {}

    def hook(role: str) -> Callable[..., None]:
        return lambda _module, _arguments, output: found.__setitem__(role, output)

    handles = [block.linear(role).register_forward_hook(hook(role)) for role in block.roles]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _at_the_top(decoder: Decoder, hidden_1TC: Tensor, ids_T: np.ndarray) -> Tensor:
    """Gradient of the window's mean next-token loss with respect to the last block's output."""
    hidden = hidden_1TC.detach().requires_grad_()
    logits = decoder.logits(hidden)[0, :-1]
    loss = functional.cross_entropy(logits, torch.from_numpy(ids_T[1:]).to(logits.device))
    return torch.autograd.grad(loss, hidden)[0]


def _through(
    decoder: Decoder, block: Block, hidden_1TC: Tensor, arriving_1TC: Tensor
) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
    """Gradients with respect to a block's input and its parameters, and mean squares of those to linears' outputs."""
    hidden = hidden_1TC.detach().requires_grad_()
    tensors = {name: tensor.detach().float().requires_grad_() for name, tensor in block.tensors.items()}
    with _outputs(block) as outputs:
        output = decoder.run(replace(block, tensors=tensors), hidden)
    sources = [hidden, *tensors.values(), *outputs.values()]
    below, *found = torch.autograd.grad(output, sources, arriving_1TC)
    sizes = [float(gradient.double().pow(2).mean()) for gradient in found[len(tensors) :]]
    return below, dict(zip(tensors, found, strict=False)), dict(zip(outputs, sizes, strict=True))
