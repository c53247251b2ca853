"""add_bias: a vector behind what a matrix gives: y = x W + b."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic.dataclasses import dataclass

from foldrank.edits.anatomy import Anatomy
from foldrank.edits.base import STRICT, Edit, Phase, Table, Told, Touch
from foldrank.sites import Site


@dataclass(frozen=True, config=STRICT)
class AddBias(Edit):
    """What a single-role site gives becomes that plus `bias` [width], also where it has a bias of its own. What stands
    at the site stays, so later edits say what they would say of it."""

    site: Site
    width: int
    bias: str
    kind: Literal["add_bias"] = "add_bias"
    phase: ClassVar[Phase] = Phase.WIDTHS
    listed: ClassVar[str] = "biases"
    counted: ClassVar[str] = "biases"

    def __post_init__(self) -> None:
        if len(self.site.roles) > 1 or self.width < 1:
            raise ValueError(f"{self.site}: a bias stands behind one role and has one number or more")

    @property
    def touch(self) -> Touch:
        """Reads the matrix it was made for."""
        return Touch(reads=frozenset(self.site.parts))

    def on(self, anatomy: Anatomy) -> Anatomy:
        """The same: an anatomy says nothing of biases."""
        if (found := anatomy.matrix(self.site).shape[1]) != self.width:
            raise ValueError(f"{self.site}: gives {found} numbers, the edit adds {self.width}")
        return anatomy

    def arrays(self) -> Mapping[str, tuple[int, ...] | None]:
        """The vector."""
        return {self.bias: (self.width,)}

    @property
    def adds(self) -> Mapping[Site, str]:
        """The vector."""
        return {self.site: self.bias}

    @classmethod
    def unsaid(cls, edits: Sequence[AddBias], blocks: int) -> str:
        """Biases, where the family has none."""
        return "biases behind matrices that had none"

    def sentence(self) -> str:
        """In words."""
        return f"{self.site}: a bias is added to what it gives."

    @property
    def told(self) -> Told | None:
        """Together."""
        return Told("biases", "added to what matrices give")

    def row(self) -> dict[str, Any]:
        """Where, and how many numbers."""
        return {"site": str(self.site), "width": self.width}

    def facts(self, hash_of: Callable[[Sequence[str]], str]) -> dict[str, Any]:
        """Its content."""
        return {f"{self.site} bias": hash_of([self.bias])}

    @classmethod
    def table(cls, edits: Sequence[AddBias]) -> Table:
        """A row each."""
        return Table("biases", ("site", "numbers"), [(str(e.site), e.width) for e in edits])
