"""Build a compressed block that makes up for what lies below it: closed-form refits against the original's outputs.

Bottom-up, each site in the order in which the block applies it. X [tokens, I] is what the site reads in the compressed
model, X' what it reads in the original, W its weight there. The new weight minimises

    |X V - (X' W + D)|^2 + e |V - W|^2            V = (G + e)^-1 (X^T X' W + X^T D + e W),  G = X^T X

where D, for the two sites that write to the residual stream, is how far the compressed stream is behind the original
(error feed-forward, as in SAES-SVD); elsewhere D = 0. A pair is the best truncation of V under the metric G + e. So the
sites that stay dense mend what the others lose, at no cost in size. Where the Fisher matrix F of a site's outputs is
known the truncation is best under both, tr(F (V - A B)^T (G + e) (V - A B)): errors count for what they cost in nats.

Cost of a block: it and its original run once, one solve [I, I] and one eigenproblem [min(I, O)] a site, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foldrank.plans.low_rank.truncation import truncations, weighted_pair
from foldrank.plans.low_rank.whitening import Metric
from foldrank.plans.models.block import Block, watch_inputs
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.solver.layout import GROUPS, Packed, Roles, Shapes, Span

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


@dataclass
class Original:
    """The model to be matched: its hidden states [N, T, C] before every block and after the last.

    `roots` (`fisher.output_roots`): what errors at a site's outputs cost, by block number; equal where it has none.
    """

    decoder: Decoder
    states: tuple[Tensor, ...]
    additive: bool
    roots: Mapping[int, Mapping[Roles, Tensor]] = field(default_factory=dict)
    packed: Packed = "joint"
    _known: dict[int, dict[Roles, Tensor]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, decoder: Decoder, ids_NT: np.ndarray, roots: Mapping[int, Mapping[Roles, Tensor]] | None = None,
        packed: Packed = "joint",
    ) -> Original:
        """Run the original once."""
        states = [decoder.embed(ids_NT)]
        with torch.no_grad():
            for block in decoder.blocks:
                states.append(decoder.run(block, states[-1]))
        found = cls(decoder, tuple(states), True, roots or {}, packed)
        return replace(found, additive=found._adds_branches())

    def position(self, number: int) -> int:
        """Where the block of this number stands."""
        return next(i for i, block in enumerate(self.decoder.blocks) if block.number == number)

    def inputs(self, number: int) -> dict[Roles, Tensor]:
        """What each site of a block reads [tokens, I]. Those of the block asked for last are kept."""
        if number not in self._known:
            self._known.clear()
            self._known[number] = self._inputs(self.position(number))
        return self._known[number]

    def _inputs(self, position: int) -> dict[Roles, Tensor]:
        block = self.decoder.blocks[position]
        found: dict[Roles, list[Tensor]] = {}
        leads = {roles[0]: roles for roles in sites(block, self.packed)}

        def see(role: str, inputs_NTI: Tensor) -> None:
            found.setdefault(leads[role], []).append(inputs_NTI.flatten(0, 1))

        with torch.no_grad(), watch_inputs(block, see, tuple(leads)):
            self.decoder.run(block, self.states[position])
        return {roles: torch.cat(parts) for roles, parts in found.items()}

    def _adds_branches(self) -> bool:
        """Whether a block adds what `o` and `down` write to the stream as it is: not with norms or factors behind."""
        block = self.decoder.blocks[0]
        with torch.no_grad():
            read = self.inputs(block.number)
            written = sum(_applied(block, roles, read[roles]) for roles in (("o",), ("down",)))
        change = (self.states[1] - self.states[0]).flatten(0, 1)
        return bool((change - written).norm() <= 1e-3 * change.norm())


def sites(block: Block, packed: Packed) -> tuple[Roles, ...]:
    """The sites of a block, in the order in which it applies them."""
    if packed == "split":
        held = block.family.linears.values()
        return tuple(sorted(held, key=lambda roles: [roles[0] in group for group in GROUPS].index(True)))
    found = (tuple(role for role in group if role in block.roles) for group in GROUPS)
    return tuple(group for group in found if group)


def shapes_of(block: Block, packed: Packed) -> Shapes:
    """[in, out] of every site."""
    return {
        roles: (block.weight(roles[0]).shape[0], sum(block.weight(role).shape[1] for role in roles))
        for roles in sites(block, packed)
    }


def refit(original: Original, span: Span, hidden_NTC: Tensor, *, prior: float = PRIOR) -> Fitted:
    """The block a span asks for, fit so that from this input it gives what the original has after `span.high`."""
    decoder = original.decoder
    source = decoder.blocks[original.position(span.source)]
    into = replace(decoder.blocks[original.position(span.low)], tensors=source.tensors)
    task = _Task(original, original.inputs(span.source), span, source, hidden_NTC, prior)
    with torch.no_grad(), _rewired(into, original.packed, task.weight):
        output = decoder.run_whole(into, hidden_NTC)
    weights = {
        role: part for roles, weight in task.weights.items()
        for role, part in zip(roles, weight.split(_widths(source, roles), dim=1), strict=True)
    }
    return Fitted(into.with_weights(weights), task.pairs, output)


@dataclass
class _Task:
    """Fits one block while it runs: `weight` is asked for each site with the input the site is about to read."""

    original: Original
    inputs: Mapping[Roles, Tensor]
    span: Span
    source: Block
    hidden: Tensor
    prior: float
    weights: dict[Roles, Tensor] = field(default_factory=dict)
    pairs: dict[Roles, tuple[Tensor, Tensor]] = field(default_factory=dict)
    behind: Tensor | None = None
    last: tuple[Tensor, tuple[Tensor, Tensor, Metric]] | None = None

    def weight(self, roles: Roles, inputs: Tensor) -> Tensor:
        """V [I, O], float32."""
        if roles not in self.weights:
            self.weights[roles] = self._fit(roles, *self._read(inputs))
        return self.weights[roles]

    def _read(self, inputs: Tensor) -> tuple[Tensor, Tensor, Metric]:
        """Inputs [tokens, I], the pull of the old weight and G with it; computed once for sites that read one input."""
        if self.last is None or self.last[0] is not inputs:
            read = inputs.flatten(0, 1).to(torch.float64)
            gram = read.T @ read
            pull = self.prior / len(read) * gram.diagonal().mean().clamp_min(1e-12)
            metric = Metric(gram + pull * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
            self.last = (inputs, (read, pull, metric))
        return self.last[1]

    def _fit(self, roles: Roles, read: Tensor, pull: Tensor, metric: Metric) -> Tensor:
        old = torch.cat([self.source.weight(role) for role in roles], dim=1).to(torch.float64)
        wanted = self.inputs[roles].to(torch.float64)
        goal = read.T @ wanted @ old + pull * old
        if self.original.additive and roles in (("o",), ("down",)):
            goal += read.T @ self._behind(roles)
        found = torch.linalg.solve(metric.matrix, goal)
        rank = self.span.ranks.get(roles)
        if rank is not None:
            pair = self._pair(found, metric, roles, rank)
            self.pairs[roles] = pair
            found = pair[0] @ pair[1]
        if roles == ("o",):
            self.behind = (wanted @ old - read @ found.to(torch.float64))
        return found.to(torch.float32)

    def _pair(self, found: Tensor, metric: Metric, roles: Roles, rank: int) -> tuple[Tensor, Tensor]:
        root = self.original.roots.get(self.source.number, {}).get(roles)
        if root is None:
            return truncations(found, metric).pair(rank)
        return weighted_pair(found, metric, root, rank)

    def _behind(self, roles: Roles) -> Tensor:
        """What the stream lacks [tokens, C] besides the site's own output in the original."""
        states, position = self.original.states, self.original.position(self.span.source)
        lacking = (states[position] - self.hidden).flatten(0, 1).to(torch.float64)
        if roles == ("o",):
            return lacking
        assert self.behind is not None
        beyond = states[self.original.position(self.span.high) + 1] - states[position + 1]
        return lacking + self.behind + beyond.flatten(0, 1)


@contextmanager
def _rewired(block: Block, packed: Packed, weight: Callable[[Roles, Tensor], Tensor]) -> Iterator[None]:
    """While this lasts, the block's linears compute with the weights `weight` gives for their sites and inputs."""
    def hook(held: Roles) -> Callable[[Any, tuple[Tensor, ...], Tensor], Tensor]:
        def compute(module: Any, arguments: tuple[Tensor, ...], _output: Tensor) -> Tensor:
            result = arguments[0] @ _columns(block, packed, held, lambda roles: weight(roles, arguments[0]))
            return result if module.bias is None else result + module.bias

        return compute

    handles = [
        block.module.get_submodule(path).register_forward_hook(hook(held))
        for path, held in block.family.linears.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _columns(block: Block, packed: Packed, held: Roles, weight: Callable[[Roles], Tensor]) -> Tensor:
    """The columns a linear holds, out of its site's weight: all of them, or one role's."""
    roles = next(group for group in sites(block, packed) if set(held) <= set(group))
    parts = dict(zip(roles, weight(roles).split(_widths(block, roles), dim=1), strict=True))
    return torch.cat([parts[role] for role in held], dim=1)


def _widths(block: Block, roles: Roles) -> list[int]:
    return [block.weight(role).shape[1] for role in roles]


def _applied(block: Block, roles: Roles, read: Tensor) -> Tensor:
    path = block.family.path(roles[0])
    bias = block.tensors.get(f"{path}.bias")
    result = read @ block.weight(roles[0])
    return result if bias is None else result + bias
