"""drop_branch: a block loses its attention or its MLP; what enters the branch's norm goes on as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

from pydantic.dataclasses import dataclass

from foldrank.edits.anatomy import Anatomy
from foldrank.edits.base import BRANCHES, STRICT, Branch, Edit, Phase, Table, Touch, parts_of


@dataclass(frozen=True, config=STRICT)
class DropBranch(Edit):
    """The block's branch adds nothing to the residual stream any more, its norm goes with it, an attention's KV pair
    too. A block that loses both is gone; one that stays keeps its number."""

    block: int
    branch: Branch
    kind: Literal["drop_branch"] = "drop_branch"
    phase: ClassVar[Phase] = Phase.BRANCHES
    listed: ClassVar[str] = "branches"
    counted: ClassVar[str] = "branches"

    def __post_init__(self) -> None:
        if self.block < 0:
            raise ValueError(f"no such block: {self.block}")

    @property
    def touch(self) -> Touch:
        """Removes the branch's weights, which the source must hold."""
        parts = parts_of([self.block], BRANCHES[self.branch])
        return Touch(reads=parts, removes=parts)

    def on(self, anatomy: Anatomy) -> Anatomy:
        """The block without the branch."""
        if self.branch not in anatomy.block(self.block).branches:
            raise ValueError(f"block {self.block} has no {self.branch}")
        left = anatomy.without_roles(self.block, BRANCHES[self.branch])
        if not left.cached:
            raise ValueError(f"block {self.block} has the last attention, so it stays")
        return left

    def sentence(self) -> str:
        """In words."""
        return f"Block {self.block} has no {_NAMES[self.branch]} any more."

    @property
    def beside(self) -> str:
        """`no MLP`."""
        return f"no {_NAMES[self.branch]}"

    @classmethod
    def unsaid(cls, edits: Sequence[DropBranch], blocks: int) -> str:
        """Blocks that lack a branch."""
        return "blocks without an attention or an MLP"

    @classmethod
    def gist(cls, edits: Sequence[DropBranch]) -> str:
        """`Attention dropped in blocks 3, 5. MLP dropped in blocks 8.`"""
        text = ". ".join(f"{name} dropped in blocks {blocks}" for name, blocks in cls.table(edits).rows)
        return f"{text[:1].upper()}{text[1:]}."

    def row(self) -> dict[str, Any]:
        """Its fields."""
        return {"block": self.block, "branch": self.branch}

    def facts(self, hash_of: Callable[[Sequence[str]], str]) -> dict[str, Any]:
        """One, of its block."""
        return {f"block.{self.block:02d} {self.branch}": "dropped"}

    @classmethod
    def table(cls, edits: Sequence[DropBranch]) -> Table:
        """A row for each branch."""
        found = {branch: [str(e.block) for e in edits if e.branch == branch] for branch in BRANCHES}
        return Table("dropped branches", ("branch", "of blocks"), [
            (_NAMES[branch], ", ".join(blocks)) for branch, blocks in found.items() if blocks])


_NAMES: dict[Branch, str] = {"attention": "attention", "mlp": "MLP"}
