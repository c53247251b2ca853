"""Build a compressed block that makes up for what lies below it: closed-form refits against the original's outputs.

Bottom-up, each site in the order in which the block applies it. X [tokens, I] is what the site reads in the compressed
model, X' what it reads in the original, W its weight there. The new weight minimises

    |X V - (X' W + D)|^2 + e |V - W|^2            V = (G + e)^-1 (X^T X' W + X^T D + e W),  G = X^T X

where D, for the two sites that write to the residual stream, is how far the compressed stream is behind the original
(error feed-forward, as in SAES-SVD); elsewhere D = 0. For the one that writes last X' W + D is all that the stream
lacks, whatever the original's site reads. So the sites that stay dense mend what the others lose, at no cost in size.
A pair is the best truncation of V under the metric G + e. Of a narrower MLP X are the channels that stay, X' are all:
down makes up for those that left. Without an MLP o makes up for it, without attention down does. Where the Fisher
matrix F of a site's outputs is known the truncation is best under both, tr(F (V - A B)^T (G + e) (V - A B)):
errors count for what they cost in nats.

Cost of a block: it runs once (its original up to down, where `Original` no longer holds what it reads), two products
over all tokens a site (float32, summed in float64), a Cholesky factor [I, I] of what sites read and one eigenproblem
[min(I, O)] a pair, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from foldrank.plans.low_rank.grams import cross_gram
from foldrank.plans.low_rank.truncation import truncations, weighted_pair
from foldrank.plans.low_rank.whitening import Metric
from foldrank.plans.models.block import Block
from foldrank.plans.simulate.slice_mlp import sliced
from foldrank.plans.solver.layout import DOWN, GROUPS, OUT, Layout, Packed, Roles, Span, branch_of
from foldrank.plans.solver.original import Original, bias, sites
from foldrank.progress import SILENT, Progress, track

PRIOR = 4096
"""What pulls a refit weight to the old one weighs as much as so many tokens of white input. Perplexity over dense in
nats with 6,144 tokens, an MLP of specs-300k all but removed, at a weight of 0.1 / 0.5 / 1 / 2 / 5 times the text's:
0.077 / 0.067 / 0.066 / 0.069 / 0.080; two blocks folded: 0.145 / 0.129 / 0.127 / 0.130 / 0.144."""


@dataclass(frozen=True)
class Fitted:
    """A block as refit. `pairs`: A [I, R] and B [R, O] of the sites that have a rank; the block computes with A B."""

    block: Block
    pairs: Mapping[Roles, tuple[Tensor, Tensor]]
    output: Tensor


Like = tuple[Span, Fitted]
"""A block as it was fit before, and the span that asked for it."""


def refit(
    original: Original, span: Span, hidden_NTC: Tensor, *, prior: float = PRIOR, like: Like | None = None
) -> Fitted:
    """The block a span asks for, fit so that from this input it gives what the original has after `span.high`.

    `like`: one fit to the same input, with the same prior, whose sites below the first that differs are the same.
    """
    decoder = original.decoder
    position = original.position(span.source)
    source = decoder.blocks[position]
    if span.untouched and hidden_NTC is original.states[position]:
        return Fitted(source, {}, original.states[position + 1])  # nothing to make up for
    into = replace(decoder.blocks[original.position(span.low)], tensors=source.tensors)
    if span.width is not None:
        into = sliced(into, original.orders[span.source].kept(span.width))
    if span.dropped is not None:
        into = into.without(span.dropped)
    inputs = original.inputs(span.source)  # first: what runs for them gives the state above, too
    states = (original.states[position], original.states[original.position(span.high) + 1])
    task = _Task(original, inputs, states, span, source, into, hidden_NTC, prior)
    if like is not None:
        task.take(*like)
    with torch.no_grad(), _rewired(into, original.packed, task.weight):
        output = decoder.run_whole(into, hidden_NTC)
    weights = {
        role: part for roles, weight in task.weights.items()
        for role, part in zip(roles, weight.split(_widths(into, roles), dim=1), strict=True)
    }
    return Fitted(into.with_weights(weights), task.pairs, output)


def fit(original: Original, layout: Layout, progress: Progress = SILENT) -> tuple[Fitted, ...]:
    """Every block of a layout, from the bottom up, without what they give: that of one is held at a time."""
    hidden, found = original.states[0], []
    for span in track(layout, "refit", len(layout), progress):
        fitted = refit(original, span, hidden)
        hidden = fitted.output
        found.append(replace(fitted, output=hidden[:0].clone()))
        original.passed(span.high)
    return tuple(found)


@dataclass
class _Task:
    """Fits one block while it runs: `weight` is asked for each site with the input the site is about to read.

    `states`: of the original before the source and after the span; `source`: the block whose outputs are wanted;
    `into`: what is left of it, before anything is fit; `written`: what its o writes to the stream [tokens, C].
    """

    original: Original
    inputs: Mapping[Roles, Tensor]
    states: tuple[Tensor, Tensor]
    span: Span
    source: Block
    into: Block
    hidden: Tensor
    prior: float
    weights: dict[Roles, Tensor] = field(default_factory=dict)
    pairs: dict[Roles, tuple[Tensor, Tensor]] = field(default_factory=dict)
    written: Tensor | None = None
    last: tuple[Tensor, tuple[Tensor, Tensor, Metric]] | None = None
    crossed: tuple[Tensor, Tensor, Tensor] | None = None

    def take(self, span: Span, fitted: Fitted) -> None:
        """What both spans have the same of, in order: a site changes what the sites above it read."""
        if replace(span, ranks={}, width=None) != replace(self.span, ranks={}, width=None):
            return
        for group in GROUPS:
            held = [roles for roles in sites(self.into, self.original.packed) if set(roles) <= set(group)]
            same = [roles for roles in held if span.ranks.get(roles) == self.span.ranks.get(roles)
                    and (span.width == self.span.width or branch_of(roles) == "attention")]
            for roles in same:
                self.weights[roles] = torch.cat([fitted.block.weight(role) for role in roles], dim=1)
                if roles in fitted.pairs:
                    self.pairs[roles] = fitted.pairs[roles]
            if same != held:
                break

    def weight(self, roles: Roles, inputs: Tensor) -> Tensor:
        """V [I, O], float32."""
        if roles not in self.weights:
            self.weights[roles] = self._fit(roles, *self._read(inputs))
        if roles == OUT:
            self.written = inputs.flatten(0, 1) @ self.weights[roles] + bias(self.source, "o")
        return self.weights[roles]

    def _read(self, inputs: Tensor) -> tuple[Tensor, Tensor, Metric]:
        """Inputs [tokens, I], the pull of the old weight and G with it; computed once for sites that read one input."""
        if self.last is None or self.last[0] is not inputs:
            read = inputs.flatten(0, 1)
            gram = cross_gram(read, read)
            pull = self.prior / len(read) * gram.diagonal().mean().clamp_min(1e-12)
            metric = Metric(gram + pull * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
            self.last = (inputs, (read, pull, metric))
        return self.last[1]

    def _fit(self, roles: Roles, read: Tensor, pull: Tensor, metric: Metric) -> Tensor:
        old = torch.cat([self.into.weight(role) for role in roles], dim=1).to(torch.float64)
        goal = self._goal(roles, read, old) + pull * old
        found = metric.solve(goal)
        rank = self.span.ranks.get(roles)
        if rank is not None:
            pair = self._pair(found, metric, roles, rank)
            self.pairs[roles] = pair
            found = pair[0] @ pair[1]
        return found.to(torch.float32).contiguous()

    def _goal(self, roles: Roles, read: Tensor, old: Tensor) -> Tensor:
        """X^T times what the site is to write [I, O], float64."""
        if roles in (OUT, DOWN):
            return cross_gram(read, self._target(roles))
        wanted = self.inputs[roles]
        if self.crossed is None or self.crossed[0] is not read or self.crossed[1] is not wanted:
            self.crossed = (read, wanted, cross_gram(read, wanted))  # once for sites that read the same in both models
        return self.crossed[2] @ old

    def _target(self, roles: Roles) -> Tensor:
        """X' W + D [tokens, C] of a site that writes to the stream."""
        before, wanted = self.states
        last = roles == DOWN or "down" not in self.into.roles
        if self.original.additive and last:
            lacking = (wanted - self.hidden).flatten(0, 1) - bias(self.source, roles[0])
            if roles == OUT or "o" not in self.into.roles:
                return lacking
            assert self.written is not None, "a block applies o before down"
            return lacking - self.written
        target = self.inputs[roles] @ self.source.weight(roles[0])
        return target + (before - self.hidden).flatten(0, 1) if self.original.additive else target

    def _pair(self, found: Tensor, metric: Metric, roles: Roles, rank: int) -> tuple[Tensor, Tensor]:
        root = self.original.roots.get(self.source.number, {}).get(roles)
        if root is None:
            return truncations(found, metric).pair(rank)
        return weighted_pair(found, metric, root.to(torch.float64), rank)


@contextmanager
def _rewired(block: Block, packed: Packed, weight: Callable[[Roles, Tensor], Tensor]) -> Iterator[None]:
    """While this lasts, the block's linears compute with the weights `weight` gives for their sites and inputs."""
    def forward(module: Any, held: Roles) -> Callable[[Tensor], Tensor]:
        def compute(inputs: Tensor) -> Tensor:
            result = inputs @ _columns(block, packed, held, lambda roles: weight(roles, inputs))
            return result if module.bias is None else result + module.bias

        return compute

    held_by = {path: held for path, held in block.family.linears.items() if set(held) <= set(block.roles)}
    linears = {path: block.module.get_submodule(path) for path in held_by}
    for path, held in held_by.items():
        linears[path].forward = forward(linears[path], held)
    try:
        yield
    finally:
        for linear in linears.values():
            del linear.forward


def _columns(block: Block, packed: Packed, held: Roles, weight: Callable[[Roles], Tensor]) -> Tensor:
    """The columns a linear holds, out of its site's weight: all of them, or one role's."""
    roles = next(group for group in sites(block, packed) if set(held) <= set(group))
    parts = dict(zip(roles, weight(roles).split(_widths(block, roles), dim=1), strict=True))
    return torch.cat([parts[role] for role in held], dim=1)


def _widths(block: Block, roles: Roles) -> list[int]:
    return [block.weight(role).shape[1] for role in roles]
