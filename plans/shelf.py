"""Where a method lays what it found so far, block by block: an interrupted plan repeats at most one block.

A shelf holds findings by name. In memory it ends with the process; on disk (`resume.py`) it outlives it, and what is on
it is read when asked for, so that the truncations of a whole model never need to be in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from foldrank.plans.models.block import Block
from foldrank.progress import Progress

States = dict[str, Tensor]
"""What is carried from block to block, by name, such as the hidden states [N, T, C]."""


@dataclass(frozen=True)
class Finding:
    """Tensors by name, and values that JSON can hold."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)

    def rows(self, name: str, count: int) -> Tensor:
        """The first `count` rows of a tensor."""
        return self.tensors[name][:count]


class Shelf(Protocol):
    """Findings by name; `under` gives a shelf of its own to a stage, told apart by what the stage depends on."""

    def under(self, stage: str) -> Shelf: ...
    def get(self, name: str) -> Finding | None: ...
    def put(self, name: str, finding: Finding) -> Finding: ...
    def drop(self, name: str) -> None: ...


class MemoryShelf:
    """A shelf for one process."""

    def __init__(self) -> None:
        self._held: dict[str, Finding] = {}

    def under(self, stage: str) -> Shelf:
        """An empty shelf."""
        return MemoryShelf()

    def get(self, name: str) -> Finding | None:
        """What was put there, or None."""
        return self._held.get(name)

    def put(self, name: str, finding: Finding) -> Finding:
        """Hold it."""
        self._held[name] = finding
        return finding

    def drop(self, name: str) -> None:
        """Let it go."""
        self._held.pop(name, None)


@dataclass
class Figures:
    """Numbers measured once each and laid on a shelf under one name as they come: none is measured again."""

    shelf: Shelf
    name: str
    known: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        held = self.shelf.get(self.name)
        self.known |= {} if held is None else held.values

    def of(self, key: str, measure: Callable[[], float]) -> float:
        """The number of a key."""
        if key not in self.known:
            self.known[key] = measure()
            self.shelf.put(self.name, Finding(values=dict(self.known)))
        return self.known[key]


def walk(
    blocks: Sequence[Block], shelf: Shelf, start: Callable[[], States],
    step: Callable[[Block, States], tuple[Finding, States]], *, stage: str, device: torch.device, progress: Progress,
) -> dict[int, Finding]:
    """Carry states up through the blocks; each step's finding by block number, from the shelf where it is there.

    The newest states lie on the shelf too: a walk that was interrupted goes on at the block it was interrupted in.
    """
    found = _found(blocks, shelf)
    last = shelf.get(_states(blocks[len(found) - 1])) if 0 < len(found) < len(blocks) else None
    states = None if last is None else {name: tensor.to(device) for name, tensor in last.tensors.items()}
    if states is None and len(found) < len(blocks):
        found = {}
    progress.start(stage, len(blocks), len(found))
    for position in range(len(found), len(blocks)):
        block = blocks[position]
        finding, states = step(block, start() if states is None else states)
        found[block.number] = shelf.put(_name(block), finding)
        shelf.put(_states(block), Finding(states))
        if position:
            shelf.drop(_states(blocks[position - 1]))
        progress.advance(stage)
    progress.finish(stage)
    return found


def _found(blocks: Sequence[Block], shelf: Shelf) -> dict[int, Finding]:
    """Findings of the blocks from the lowest up, to the first that has none or whose states were not written."""
    found: dict[int, Finding] = {}
    for block in blocks:
        finding = shelf.get(_name(block))
        if finding is None:
            break
        found[block.number] = finding
    if found and shelf.get(_states(blocks[len(found) - 1])) is None:
        found.popitem()
    return found


def _name(block: Block) -> str:
    return f"block.{block.number:02d}"


def _states(block: Block) -> str:
    return f"states.{block.number:02d}"
