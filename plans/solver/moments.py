"""What sites of the uncompressed model read, and what the loss minds at their outputs: sums over tokens, by block.

Labels are drawn from the model itself, as K-FAC's Fisher asks (arXiv 1503.05671). All blocks' sums of a wide model are
more than memory holds, so blocks are taken in groups, each by a backward pass of its own down to its lowest block.
Axes: N windows, T tokens, I a site's inputs, O its outputs, C channels of the stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldrank.freed import give_back
from foldrank.plans.low_rank.grams import cross_gram
from foldrank.plans.models.block import Block
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.models.losses import drawn_loss
from foldrank.plans.models.slopes import parts
from foldrank.plans.solver.layout import Packed, Roles
from foldrank.plans.solver.original import sites
from foldrank.progress import SILENT, Progress, track

WIDEST = 4096
"""Outputs of a site up to which products of their gradients are held: their size is the square of that."""

GROUP_BYTES = 5 << 29
"""Of one group's sums: 2.5 GiB."""


@dataclass
class Moments:
    """Sums over tokens for one block, float64: `inputs` of x^T x [I, I] and `outputs` of g^T g [O, O], or its diagonal
    [O] where O is above WIDEST, by site, and `stream` of s^T s [C, C], s the gradient by the block's output.

    Sites that read one input hold one and the same sum.
    """

    inputs: dict[Roles, Tensor] = field(default_factory=dict)
    outputs: dict[Roles, Tensor] = field(default_factory=dict)
    stream: Tensor | None = None


def diagonal(sums: Tensor) -> Tensor:
    """[O] of what `Moments.outputs` holds."""
    return sums if sums.dim() == 1 else sums.diagonal()


def weighed(rows_XO: Tensor, sums: Tensor) -> Tensor:
    """X F [.., O]: rows times what `Moments.outputs` holds."""
    return rows_XO * sums if sums.dim() == 1 else rows_XO @ sums


def fisher_moments(
    decoder: Decoder, ids_NT: np.ndarray, seed: int, packed: Packed = "joint", progress: Progress = SILENT, *,
    limit: int = GROUP_BYTES,
) -> Iterator[tuple[Block, Moments]]:
    """Moments of one block after the other, lowest first; `limit`: bytes of those that are held at once.

    Cost: a forward pass and a backward pass down to the group, for every group, and for each site a product of its
    inputs and one of its outputs with themselves: in float32, sums over windows in float64.
    """
    taken = parts(ids_NT)
    steps = [(group, number) for group in _groups(decoder, packed, limit) for number in range(len(taken))]
    generator, found = torch.Generator(decoder.device), dict[int, Moments]()
    for group, number in track(steps, "gradients", len(steps), progress):
        if number == 0:
            generator.manual_seed(seed)  # the same labels for every group
            found = {block.number: Moments() for block in group}
        _add_windows(decoder, taken[number], found, generator, packed)
        if number == len(taken) - 1:
            yield from ((block, found.pop(block.number)) for block in group)
            give_back()


def _groups(decoder: Decoder, packed: Packed, limit: int) -> Iterator[list[Block]]:
    """Blocks in a row whose sums stay below the limit, or one alone."""
    group: list[Block] = []
    held = 0
    for block in decoder.blocks:
        own = _bytes(block, packed)
        if group and held + own > limit:
            yield group
            group, held = [], 0
        group.append(block)
        held += own
    yield group


def _bytes(block: Block, packed: Packed) -> int:
    """Of a block's sums, about: what sites that read one input share is counted for each."""
    sizes = [block.size(roles) for roles in sites(block, packed)]
    return 8 * sum(n_in**2 + (n_out**2 if n_out <= WIDEST else n_out) for n_in, n_out in sizes)


def _add_windows(
    decoder: Decoder, ids_NT: np.ndarray, found: dict[int, Moments], generator: torch.Generator, packed: Packed
) -> None:
    watched: list[tuple[Moments, Roles, Tensor, list[Tensor]]] = []
    streams: list[tuple[Moments, Tensor]] = []
    with torch.no_grad():
        hidden = decoder.embed(ids_NT)
    for block in decoder.blocks:
        if block.number in found and not streams:
            hidden.requires_grad_()
        with torch.set_grad_enabled(hidden.requires_grad), _outputs(block, packed) as seen:
            hidden = decoder.run(block, hidden)
        if block.number in found:
            streams.append((found[block.number], hidden))
            watched += [
                (found[block.number], roles, read, [written[role] for role in roles if role in written])
                for roles, (read, written) in seen.items()
            ]
    with torch.enable_grad():
        loss = drawn_loss(decoder.logits(hidden), generator)
        wanted = [part for entry in watched for part in entry[3]] + [stream for _, stream in streams]
        gradients = iter(torch.autograd.grad(loss, wanted))
    last = summed = torch.empty(0)
    for moments, roles, read, written in watched:
        slopes = torch.cat([next(gradients) for _ in written], dim=-1)
        if read is not last:
            last, summed = read, _added(moments.inputs.get(roles), read)
        moments.inputs[roles] = summed
        moments.outputs[roles] = _added(moments.outputs.get(roles), slopes, whole=slopes.shape[-1] <= WIDEST)
    for (moments, _), slopes in zip(streams, gradients, strict=True):
        moments.stream = _added(moments.stream, slopes)


@contextmanager
def _outputs(block: Block, packed: Packed) -> Iterator[dict[Roles, tuple[Tensor, dict[str, Tensor]]]]:
    """Input of every site and outputs of its linears, by first role, while the block is run once."""
    seen: dict[Roles, tuple[Tensor, dict[str, Tensor]]] = {}
    group = {role: roles for roles in sites(block, packed) for role in roles}

    def hook(first: str) -> Any:
        def see(_module: Any, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            seen.setdefault(group[first], (arguments[0], {}))[1][first] = output

        return see

    handles = [
        block.module.get_submodule(path).register_forward_hook(hook(held[0]))
        for path, held in block.family.linears.items()
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _added(sums: Tensor | None, rows_NTX: Tensor, *, whole: bool = True) -> Tensor:
    """The sums with x^T x over these tokens, or with its diagonal alone."""
    rows = rows_NTX.detach().flatten(0, -2)
    found = cross_gram(rows, rows) if whole else rows.square().sum(dim=0, dtype=torch.float64)
    return found if sums is None else sums.add_(found)
