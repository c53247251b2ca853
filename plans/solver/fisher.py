"""What cutting a site's rank is expected to cost in nats, from two-sided whitening (K-FAC, arXiv 1503.05671).

For a change dW [I, O] of one site the loss rises by 1/2 E[(x dW g^T)^2] to second order, x the site's input and g the
gradient of the summed log likelihood by its output, labels drawn from the model itself. With x and g taken as
independent that is 1/2 tr(dW^T G dW F), G = E[x^T x] and F = E[g^T g] over tokens. Truncating W under both whitenings,
the loss at each rank is half the sum of the eigenvalues dropped. Holds while the loss is small: to shortlist, not to
decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldrank.plans.low_rank.grams import cross_gram
from foldrank.plans.low_rank.truncation import truncation_losses
from foldrank.plans.low_rank.whitening import Metric
from foldrank.plans.models.block import Block
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.solver.layout import Packed, Roles
from foldrank.plans.solver.meter import AT_ONCE
from foldrank.plans.solver.original import sites
from foldrank.progress import SILENT, Progress, track

Curve = np.ndarray
"""Expected loss in nats a token at each rank, from 0 to min(I, O)."""

Roots = Mapping[int, Mapping[Roles, Tensor]]
"""R [O, O] of sites, lower triangular, float32, R R^T = F with damping: what an error at each output costs. By block
number."""

Curves = Mapping[int, Mapping[Roles, Curve]]
"""Curve of every site, by block number."""


@dataclass
class Moments:
    """Sums over tokens for one block, float64: `inputs` of x^T x [I, I] and `outputs` of g^T g [O, O], by site, and
    `stream` of s^T s [C, C], s the gradient by the block's output.

    Sites that read one input hold one and the same sum.
    """

    inputs: dict[Roles, Tensor] = field(default_factory=dict)
    outputs: dict[Roles, Tensor] = field(default_factory=dict)
    stream: Tensor | None = None


DAMPING = 0.1
"""Share of the mean that is added to the diagonal of F. KL in nats on text not fit to, specs-300k at keep 0.9, one
layout, at 1 / 0.3 / 0.1 / 0.01: 0.0765 / 0.0743 / 0.0740 / 0.0739; with F left out 0.0892."""

WIDEST = 4096
"""Outputs of a site up to which F is held: its size is the square of that."""


def predicted_losses(block: Block, moments: Moments, tokens: int) -> dict[Roles, Curve]:
    """Curve of every site of a block. Cost: two eigenproblems a site."""
    metrics = {id(sums): Metric(sums / tokens) for sums in moments.inputs.values()}  # sites of one input share its root
    return {
        roles: curve(_weight(block, roles), metrics[id(sums)], Metric(moments.outputs[roles] / tokens))
        for roles, sums in moments.inputs.items()
    }


def output_roots(moments: Moments) -> dict[Roles, Tensor]:
    """R of every site of a block with at most WIDEST outputs."""
    return {roles: _root(sums) for roles, sums in moments.outputs.items() if len(sums) <= WIDEST}


def _root(fisher_OO: Tensor) -> Tensor:
    damping = (DAMPING * fisher_OO.diagonal().mean()).clamp_min(torch.finfo(torch.float32).tiny)
    root = torch.linalg.cholesky(fisher_OO + damping * torch.eye(len(fisher_OO), device=fisher_OO.device))
    return root.to(torch.float32)


def curve(weight_IO: Tensor, inputs: Metric, outputs: Metric) -> Curve:
    """Expected loss at each rank of one site, from the means G [I, I] and F [O, O] over tokens."""
    return truncation_losses(weight_IO.to(torch.float64) @ outputs.root, inputs) / 2


def fisher_moments(
    decoder: Decoder, ids_NT: np.ndarray, seed: int, packed: Packed = "joint", progress: Progress = SILENT
) -> dict[int, Moments]:
    """Moments of every block, some windows at a time, by block number.

    Cost: a backward pass, and for each site a product of its inputs and one of its outputs with themselves: in float32,
    sums over windows in float64.
    """
    generator = torch.Generator(decoder.device).manual_seed(seed)
    found = {block.number: Moments() for block in decoder.blocks}
    size = max(1, AT_ONCE // ids_NT.shape[1])
    starts = range(0, len(ids_NT), size)
    for start in track(starts, "gradients", len(starts), progress):
        _add_windows(decoder, ids_NT[start : start + size], found, generator, packed)
    return found


def _add_windows(
    decoder: Decoder, ids_NT: np.ndarray, found: dict[int, Moments], generator: torch.Generator, packed: Packed
) -> None:
    watched: list[tuple[Moments, Roles, Tensor, list[Tensor]]] = []
    streams = []
    with torch.enable_grad():
        hidden = decoder.embed(ids_NT).requires_grad_()
        for block in decoder.blocks:
            with _outputs(block, packed) as seen:
                hidden = decoder.run(block, hidden)
            streams.append(hidden)
            watched += [
                (found[block.number], roles, read, [written[role] for role in roles if role in written])
                for roles, (read, written) in seen.items()
            ]
        logits = decoder.logits(hidden).flatten(0, 1)
        with torch.no_grad():
            drawn = torch.multinomial(logits.softmax(-1), 1, generator=generator)
        loss = -logits.log_softmax(-1).gather(-1, drawn).sum()
        gradients = iter(torch.autograd.grad(loss, [part for entry in watched for part in entry[3]] + streams))
    last = summed = torch.empty(0)
    for moments, roles, read, written in watched:
        slopes = torch.cat([next(gradients) for _ in written], dim=-1)
        if read is not last:
            last, summed = read, _added(moments.inputs.get(roles), read)
        moments.inputs[roles] = summed
        moments.outputs[roles] = _added(moments.outputs.get(roles), slopes)
    for block, slopes in zip(decoder.blocks, gradients, strict=True):
        found[block.number].stream = _added(found[block.number].stream, slopes)


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


def _added(sums_XX: Tensor | None, rows_NTX: Tensor) -> Tensor:
    """The sums with x^T x over these tokens."""
    rows = rows_NTX.detach().flatten(0, -2)
    found = cross_gram(rows, rows)
    return found if sums_XX is None else sums_XX.add_(found)


def _weight(block: Block, roles: Roles) -> Tensor:
    return torch.cat([block.weight(role) for role in roles], dim=1)
