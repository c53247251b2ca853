"""pre_rmsnorm: a decoder with a LayerNorm before each branch becomes one with RMS norms; logits stay.

What writes to the residual stream is centred, W (I - 1 1^T / d) and its bias likewise, and the mean of what enters the
first block is taken away: so the stream has no mean, and of what has none LayerNorm(x) = RMSNorm(x) g + b. In a block b
goes into what reads the norm, as b W behind its product; of the final norm it stays. After Pre-RMSNorm and Pre-CRMSNorm
Transformers (arXiv 2305.14858).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic.dataclasses import dataclass

from foldrank.edits.anatomy import Anatomy
from foldrank.edits.base import BRANCHES, LAST, STRICT, Phase, Table, Touch, parts_of
from foldrank.edits.stream import StreamEdit


@dataclass(frozen=True, config=STRICT)
class PreRmsnorm(StreamEdit):
    """The stream of `width` channels has no mean any more."""

    width: int
    attention: tuple[int, ...]
    mlp: tuple[int, ...]
    kind: Literal["pre_rmsnorm"] = "pre_rmsnorm"
    phase: ClassVar[Phase] = Phase.NORMS
    listed: ClassVar[str] = "pre_rmsnorms"
    counted: ClassVar[str] = "pre_rmsnorms"

    def __post_init__(self) -> None:
        if self.width < 2:
            raise ValueError(f"pre_rmsnorm: a stream of {self.width} channels has no mean to be taken away")
        self.check_numbers()

    @property
    def touch(self) -> Touch:
        """Reads all weights, as biases are made of those that read the stream; writes those that write to it."""
        return Touch(
            reads=parts_of(self.attention, BRANCHES["attention"]) | parts_of(self.mlp, BRANCHES["mlp"]),
            writes=parts_of(self.attention, (LAST["attention"],)) | parts_of(self.mlp, (LAST["mlp"],)))

    def on(self, anatomy: Anatomy) -> Anatomy:
        """The same shapes. What writes to the stream is shared no more: that of each block is centred by itself."""
        if anatomy.centred or anatomy.rotated is not None:
            raise ValueError(f"the stream is {'centred' if anatomy.centred else 'rotated'} already")
        self.check_whole(anatomy)
        blocks = tuple(replace(block, matrices={
            role: replace(matrix, stored=None) if role in LAST.values() else matrix
            for role, matrix in block.matrices.items()}) for block in anatomy.blocks)
        return replace(anatomy, blocks=blocks, centred=True)

    @classmethod
    def unsaid(cls, edits: Sequence[PreRmsnorm], blocks: int) -> str:
        """The norms."""
        return "RMS norms in the place of LayerNorms"

    def sentence(self) -> str:
        """In words."""
        return f"LayerNorms became RMS norms: the residual stream of {self.width} channels has no mean any more."

    def facts(self, hash_of: Callable[[Sequence[str]], str]) -> dict[str, Any]:
        """That it was done."""
        return {"stream centred": self.width}

    @classmethod
    def table(cls, edits: Sequence[PreRmsnorm]) -> Table:
        """A row."""
        return Table("LayerNorms to RMS norms", ("channels", "attentions", "MLPs"), [
            (e.width, len(e.attention), len(e.mlp)) for e in edits])
