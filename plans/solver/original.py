"""The model that compressed blocks are fit to: what it gives before every block, and what each of its sites reads.

Axes: N windows, T tokens, C channels, I a site's inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from foldrank.plans.models.block import Block, Seen, watch_inputs
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.solver.layout import DOWN, GROUPS, OUT, Packed, Roles, Shapes
from foldrank.plans.width.channels import Order

KEPT = 1 << 27
"""Numbers (float32) that are kept of what sites read in the original: half a gibibyte."""


class States(Protocol):
    """Hidden states [N, T, C] before every block of a model and after the last."""

    def __getitem__(self, position: int, /) -> Tensor: ...


@dataclass
class Passing:
    """States of a model that is walked once, lowest first: each is computed when it is asked for, and held until it is
    passed."""

    decoder: Decoder
    held: dict[int, Tensor]

    def __getitem__(self, position: int, /) -> Tensor:
        with torch.no_grad():
            for top in range(max(self.held), position):
                self.held[top + 1] = self.decoder.run(self.decoder.blocks[top], self.held[top])
        return self.held[position]

    def passed(self, position: int) -> None:
        """Nothing below this one is asked for any more."""
        self.held = {place: state for place, state in self.held.items() if place >= position}


@dataclass
class Original:
    """The model to be matched, and its states.

    `roots` (`fisher.output_roots`): what errors at a site's outputs cost, by block number; equal where it has none.
    `streams`: F [C, C] at every block's output, float32 (`above.py`), by block number.
    `orders`: channels of every MLP, those that stay longest first, by block number.
    `additive`: whether a block adds what o and down write to the stream as it is: not with norms or factors behind.
    """

    decoder: Decoder
    states: States
    additive: bool
    roots: Mapping[int, Mapping[Roles, Tensor]] = field(default_factory=dict)
    packed: Packed = "joint"
    orders: Mapping[int, Order] = field(default_factory=dict)
    streams: Mapping[int, Tensor] = field(default_factory=dict)
    _known: dict[int, dict[Roles, Tensor]] = field(default_factory=dict)
    _last: tuple[int, dict[Roles, Tensor]] | None = None

    @classmethod
    def of(
        cls, decoder: Decoder, ids_NT: np.ndarray, roots: Mapping[int, Mapping[Roles, Tensor]] | None = None,
        packed: Packed = "joint", orders: Mapping[int, Order] | None = None,
        streams: Mapping[int, Tensor] | None = None,
    ) -> Original:
        """Run the original once and hold all of its states."""
        found = cls.passing(decoder, ids_NT, roots, packed, orders)
        states = tuple(found.states[position] for position in range(len(decoder.blocks) + 1))
        return replace(found, states=states, streams=streams or {})

    @classmethod
    def passing(
        cls, decoder: Decoder, ids_NT: np.ndarray, roots: Mapping[int, Mapping[Roles, Tensor]] | None = None,
        packed: Packed = "joint", orders: Mapping[int, Order] | None = None,
    ) -> Original:
        """For one fit of all blocks, from the bottom up (`block_refit.fit`): states that were passed are not held."""
        states = Passing(decoder, {0: decoder.embed(ids_NT)})
        found = cls(decoder, states, True, roots or {}, packed, orders or {})
        return replace(found, additive=found._adds_branches())

    def passed(self, number: int) -> None:
        """Blocks up to this number are fit: where states are computed as they are asked for, theirs are let go."""
        if isinstance(self.states, Passing):
            self.states.passed(self.position(number) + 1)
            self._known.clear()
            self._last = None

    def position(self, number: int) -> int:
        """Where the block of this number stands."""
        return next(i for i, block in enumerate(self.decoder.blocks) if block.number == number)

    def inputs(self, number: int) -> dict[Roles, Tensor]:
        """What each site of a block reads [tokens, I]: one tensor for sites that read the same. Not down where blocks
        are additive: what it is to write is what the stream still lacks. Kept: as many blocks as there is room for, and
        the one asked for last."""
        known = self._known.get(number)
        if known is None and self._last is not None and self._last[0] == number:
            known = self._last[1]
        if known is None:
            self._last = None
            position = self.position(number)
            held = sites(self.decoder.blocks[position], self.packed)
            known = self._inputs(position, [roles for roles in held if not (self.additive and roles == DOWN)])
            if _numbers([known, *self._known.values()]) <= KEPT:
                self._known[number] = known
            else:
                self._last = (number, known)
        return known

    def _inputs(self, position: int, held: Sequence[Roles]) -> dict[Roles, Tensor]:
        """Cost: the block up to the last of these sites; to its end where what it gives is still to be computed."""
        block, found, states = self.decoder.blocks[position], dict[Roles, Tensor](), self.states
        leads = {roles[0]: roles for roles in held}
        hidden = states[position]
        goes_on = isinstance(states, Passing) and position + 1 not in states.held

        def see(role: str, inputs_NTI: Tensor) -> None:
            found[leads[role]] = inputs_NTI.flatten(0, 1)
            if len(found) == len(leads) and not goes_on:
                raise Seen

        if held:
            with torch.no_grad(), suppress(Seen), watch_inputs(block, see, tuple(leads)):
                output = self.decoder.run_whole(block, hidden)
                if isinstance(states, Passing):
                    states.held[position + 1] = output
        whole = {_place(read): read for read in found.values()}
        return {roles: whole[_place(found[roles])] for roles in held}

    def _adds_branches(self) -> bool:
        """`additive`, as the first block shows."""
        block = self.decoder.blocks[0]
        with torch.no_grad():
            read = self._inputs(0, [roles for roles in (OUT, DOWN) if roles[0] in block.roles])
            written = sum(inputs @ block.weight(roles[0]) + bias(block, roles[0]) for roles, inputs in read.items())
        change = (self.states[1] - self.states[0]).flatten(0, 1)
        return bool((change - written).norm() <= 1e-3 * change.norm())


def sites(block: Block, packed: Packed) -> tuple[Roles, ...]:
    """The sites of a block, in the order in which it applies them."""
    if packed == "split":
        held = [roles for roles in block.family.linears.values() if set(roles) <= set(block.roles)]
        return tuple(sorted(held, key=lambda roles: [roles[0] in group for group in GROUPS].index(True)))
    found = (tuple(role for role in group if role in block.roles) for group in GROUPS)
    return tuple(group for group in found if group)


def shapes_of(block: Block, packed: Packed) -> Shapes:
    """[in, out] of every site."""
    return {roles: block.size(roles) for roles in sites(block, packed)}


def _place(read: Tensor) -> tuple[int, ...]:
    """Where a tensor that is held lies, and how large it is: equal for those that sites read together."""
    return read.data_ptr(), *read.shape


def _numbers(held: Iterable[Mapping[Roles, Tensor]]) -> int:
    """In all, what several sites read counted once."""
    return sum({tensor.data_ptr(): tensor.numel() for read in held for tensor in read.values()}.values())


def bias(block: Block, role: str) -> Tensor | float:
    """Of the linear of a site alone in its linear [O]; 0 where it has none."""
    return block.tensors.get(f"{block.family.path(role)}.bias", 0.0)
