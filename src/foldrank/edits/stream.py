"""What edits of the whole residual stream share: its width, and all branches that read it and write to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from foldrank.edits.anatomy import Anatomy, Matrix
from foldrank.edits.base import LAST, Branch, Edit


class StreamEdit(Edit):
    """An edit of the stream of `width` channels. `attention` and `mlp`: numbers of all blocks that have the branch.
    Subclasses are dataclasses, as of every edit."""

    width: int
    attention: tuple[int, ...]
    mlp: tuple[int, ...]

    @property
    def branches(self) -> Iterator[tuple[int, Branch]]:
        """Blocks by number, each with a branch that it has."""
        held: Mapping[Branch, tuple[int, ...]] = {"attention": self.attention, "mlp": self.mlp}
        return ((number, branch) for branch, numbers in held.items() for number in numbers)

    def check_numbers(self) -> None:
        """Raises ValueError where blocks do not ascend, or there are none."""
        for numbers in (self.attention, self.mlp):
            if numbers != tuple(sorted(set(numbers))) or min(numbers, default=0) < 0:
                raise ValueError(f"{self.kind}: blocks {numbers} do not ascend")
        if not self.attention and not self.mlp:
            raise ValueError(f"{self.kind}: of no block")

    def check_whole(self, anatomy: Anatomy) -> None:
        """Raises ValueError unless these are all branches that there are, of plain matrices of a stream so wide."""
        there = {(block.number, branch) for block in anatomy.blocks for branch in block.branches}
        if odd := sorted(there ^ set(self.branches)):
            number, branch = odd[0]
            what = "is left out" if odd[0] in there else "is not there"
            raise ValueError(f"{self.kind}: block {number}: its {branch} {what}; the stream is changed whole")
        for block in anatomy.blocks:
            if block.unread:
                raise ValueError(f"block {block.number}: {', '.join(sorted(block.unread))} cannot be read")
            for role, matrix in block.matrices.items():
                if matrix != Matrix(matrix.shape) or matrix.shape[role in LAST.values()] != self.width:
                    raise ValueError(f"block.{block.number:02d}.{role}: is {matrix}, no matrix of floats of a stream "
                                     f"of {self.width}")

    def row(self) -> dict[str, Any]:
        """Its width, and whose branches."""
        return {"width": self.width, "attention": list(self.attention), "mlp": list(self.mlp)}
