"""slice_mlp: an MLP keeps some of its channels; what writes the others and what they wrote leaves.

A channel is a column of gate and up and the row of down that reads it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar, Final, Literal

from pydantic import GetCoreSchemaHandler
from pydantic.dataclasses import dataclass
from pydantic_core import core_schema

from foldrank.digests import WeightDigest
from foldrank.edits.anatomy import Anatomy, Matrix
from foldrank.edits.base import BRANCHES, STRICT, Edit, Part, Phase, Table, Touch
from foldrank.sites import Site

_RUN: Final = re.compile(r"(0|[1-9]\d{0,8})(?:-([1-9]\d{0,8}))?")
_MOST: Final = 1 << 20
"""Channels of an MLP that a plan is believed to mean: its text may come from anyone."""


@plain_dataclass(frozen=True)
class Channels:
    """Numbers of channels, strictly ascending; written as runs: `0-15 18 20-31`."""

    numbers: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.numbers or self.numbers[0] < 0 or any(one >= other for one, other in pairwise(self.numbers)):
            raise ValueError("channels are not one or more numbers in strictly ascending order")

    def __len__(self) -> int:
        return len(self.numbers)

    @classmethod
    def parse(cls, text: str) -> Channels:
        """Read `0-15 18 20-31`. Raises ValueError on anything else, also on a second spelling (`0-1 2`)."""
        found: list[int] = []
        for run in text.split(" "):
            match = _RUN.fullmatch(run)
            first = int(match[1]) if match else 0
            last = int(match[2] or first) if match else 0
            if match is None or last >= _MOST or (found and first <= found[-1]):
                raise ValueError(f"{run[:40]!r} is no run of channels; channels read 0-15 18 20-31")
            found += range(first, last + 1)
        channels = cls(tuple(found))
        if str(channels) != text:
            raise ValueError(f"channels {text[:40]!r} are written {str(channels)[:40]}")
        return channels

    @property
    def runs(self) -> Iterator[tuple[int, int]]:
        """First and last number of each run of neighbours."""
        first = last = self.numbers[0]
        for number in self.numbers[1:]:
            if number != last + 1:
                yield first, last
                first = number
            last = number
        yield first, last

    def __str__(self) -> str:
        return " ".join(str(first) if first == last else f"{first}-{last}" for first, last in self.runs)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: GetCoreSchemaHandler) -> Any:
        return core_schema.no_info_plain_validator_function(
            lambda value: value if isinstance(value, Channels) else cls.parse(str(value)),
            serialization=core_schema.plain_serializer_function_ser_schema(str, return_schema=core_schema.str_schema()),
        )


@dataclass(frozen=True, config=STRICT)
class SliceMlp(Edit):
    """The block's MLP keeps `channels`: those columns of gate and up, those rows of down.

    `shape`: [channels, out] of down before. `down` names another down [kept, out] that takes the place of the rows
    kept, `bias` a vector [out] to be added to what down gives; None: neither. `replaces` digests gate (where the
    family has one), up and down as the source has them, or as a fold of the same plan leaves them.
    """

    block: int
    shape: tuple[int, int]
    channels: Channels
    down: str | None
    bias: str | None
    replaces: tuple[WeightDigest, ...]
    kind: Literal["slice_mlp"] = "slice_mlp"
    phase: ClassVar[Phase] = Phase.WIDTHS
    listed: ClassVar[str] = "widths"
    counted: ClassVar[str] = "widths"

    def __post_init__(self) -> None:
        if self.block < 0 or min(self.shape) < 1 or self.channels.numbers[-1] >= self.shape[0]:
            raise ValueError(f"{self.name}: no such channels of {self.shape[0]}: {self.channels.numbers[-1]}")
        if len(self.replaces) not in (2, 3):
            raise ValueError(f"{self.name}: {len(self.replaces)} digests; those of gate (if any), up, down are asked")

    @property
    def name(self) -> str:
        """`block.07.mlp`."""
        return f"block.{self.block:02d}.mlp"

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles of the MLP, down the last."""
        return BRANCHES["mlp"][-len(self.replaces):]

    @property
    def sites(self) -> tuple[Site, ...]:
        """Its single-role sites."""
        return tuple(Site(self.block, (role,)) for role in self.roles)

    @property
    def touch(self) -> Touch:
        """Writes the whole MLP."""
        return Touch(writes=frozenset(self.sites))

    @property
    def replaced(self) -> Mapping[Part, WeightDigest]:
        """Of each role."""
        return dict(zip(self.sites, self.replaces, strict=True))

    @property
    def shapes(self) -> Mapping[Part, tuple[int, int]]:
        """Of each role."""
        width, out = self.shape
        return {site: (out, width) if site.role != "down" else (width, out) for site in self.sites}

    def on(self, anatomy: Anatomy) -> Anatomy:
        """A narrower MLP."""
        block = anatomy.block(self.block)
        found = {role: matrix for role, matrix in block.matrices.items() if role in BRANCHES["mlp"]}
        expected = {role: Matrix(shape) for role, shape in zip(self.roles, self.shapes.values(), strict=True)}
        if odd := [role for role in BRANCHES["mlp"] if found.get(role) != expected.get(role)]:
            raise ValueError(f"{Site(self.block, (odd[0],))}: is {found.get(odd[0], 'not there')}, the edit says "
                             f"{expected.get(odd[0], 'there is none')}")
        narrow, out = len(self.channels), self.shape[1]
        kept = {role: replace(found[role], shape=(out, narrow) if role != "down" else (narrow, out), stored=None)
                for role in self.roles}
        return anatomy.with_block(replace(block, matrices={**block.matrices, **kept}))

    def arrays(self) -> Mapping[str, tuple[int, ...] | None]:
        """Another down, and the bias."""
        named = {self.down: (len(self.channels), self.shape[1]), self.bias: (self.shape[1],)}
        return {name: shape for name, shape in named.items() if name is not None}

    @property
    def leaves(self) -> Mapping[Site, str]:
        """The narrower down."""
        return {self.sites[-1]: self.down or f"{self.name}.down"}

    @property
    def adds(self) -> Mapping[Site, str]:
        """The bias behind down."""
        return {} if self.bias is None else {self.sites[-1]: self.bias}

    def holding(self, names: frozenset[str]) -> SliceMlp:
        """With another down, where that is named."""
        down = self.leaves[self.sites[-1]]
        return replace(self, down=down) if down in names else self

    def sentence(self) -> str:
        """In words."""
        return f"{self.name}: keeps {self._kept}."

    @property
    def beside(self) -> str:
        """`MLP 75%`."""
        return f"MLP {len(self.channels) / self.shape[0]:.0%}"

    @classmethod
    def unsaid(cls, edits: Sequence[SliceMlp], blocks: int) -> str:
        """Widths, but where all blocks have one, which it says then; biases where the family has none."""
        even = len(edits) == blocks and len({len(edit.channels) for edit in edits}) == 1
        found = ("" if even else "widths of MLPs that differ from block to block",
                 "biases behind MLPs that had none" if any(edit.bias for edit in edits) else "")
        return " and ".join(filter(None, found))

    @classmethod
    def gist(cls, edits: Sequence[SliceMlp]) -> str:
        """`MLPs of 24 blocks keep 384 to 1520 of 1536 channels.`"""
        kept, whole = ({f(edit) for edit in edits} for f in (lambda e: len(e.channels), lambda e: e.shape[0]))
        spans = [f"{min(n)} to {max(n)}" if len(n) > 1 else f"{min(n)}" for n in (kept, whole)]
        return f"MLPs of {len(edits)} blocks keep {spans[0]} of {spans[1]} channels."

    @property
    def _kept(self) -> str:
        also = [what for name, what in ((self.down, "down refit"), (self.bias, "a bias for the rest")) if name]
        return ", ".join([f"{len(self.channels)} of {self.shape[0]} channels", *also])

    def row(self) -> dict[str, Any]:
        """Its fields; which channels stay is in plan.json."""
        return {"block": self.block, "width": self.shape[0], "kept": len(self.channels),
                "down": self.down is not None, "bias": self.bias is not None}

    def facts(self, hash_of: Callable[[Sequence[str]], str]) -> dict[str, Any]:
        """Its width, which channels, and its arrays' content."""
        found = {f"{self.name} width": len(self.channels), f"{self.name} channels": str(self.channels)}
        return found | ({f"{self.name} arrays": hash_of(names)} if (names := list(self.arrays())) else {})

    @classmethod
    def table(cls, edits: Sequence[SliceMlp]) -> Table:
        """A row each."""
        return Table("narrower MLPs", ("block", "channels", "kept", "keeps", "down refit", "bias"), [
            (str(e.block), e.shape[0], len(e.channels), f"{len(e.channels) / e.shape[0]:.0%}",
             "yes" if e.down else "no", "yes" if e.bias else "no") for e in edits])
