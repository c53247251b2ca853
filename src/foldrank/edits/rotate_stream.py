"""rotate_stream: the residual stream is turned by an orthogonal matrix between embedding and final norm; logits stay.

With the gain g of its norm folded in, what reads the stream becomes Q diag(g) W, and what writes to it W Q; the norm is
left a gain that does nothing, so that of x Q it gives what it gives of x, times Q. The stream is multiplied by Q where
it enters the first block, and back behind the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic.dataclasses import dataclass

from foldrank.edits.anatomy import Anatomy
from foldrank.edits.base import BRANCHES, STRICT, Phase, Table, Touch, parts_of
from foldrank.edits.stream import StreamEdit


@dataclass(frozen=True, config=STRICT)
class RotateStream(StreamEdit):
    """The stream of `width` channels is turned by Q = D H D, which is symmetric and its own inverse.

    H is the discrete Hartley transform, H[j, k] = (cos t + sin t) / sqrt(width) with t = 2 pi j k / width. D is
    diagonal; its signs are the bits of `signs`, hexadecimal, the first digit's highest bit the first channel's: 1 is a
    minus. Zeros fill the last byte.
    """

    width: int
    signs: str
    attention: tuple[int, ...]
    mlp: tuple[int, ...]
    kind: Literal["rotate_stream"] = "rotate_stream"
    phase: ClassVar[Phase] = Phase.ROTATION
    listed: ClassVar[str] = "rotations"
    counted: ClassVar[str] = "rotations"

    def __post_init__(self) -> None:
        digits = 2 * -(-self.width // 8)
        if self.width < 2 or len(self.signs) != digits or set(self.signs) - set("0123456789abcdef"):
            raise ValueError(f"rotation: the signs of {self.width} channels are {digits} lower hexadecimal digits, not "
                             f"{self.signs!r:.40}")
        if int(self.signs, 16) % (1 << 4 * digits - self.width):
            raise ValueError(f"rotation: there are signs behind the last of {self.width} channels")
        self.check_numbers()

    @property
    def touch(self) -> Touch:
        """Writes all that reads the stream or writes to it."""
        parts = parts_of(self.attention, BRANCHES["attention"]) | parts_of(self.mlp, BRANCHES["mlp"])
        return Touch(reads=parts, writes=parts)

    def on(self, anatomy: Anatomy) -> Anatomy:
        """The same shapes, no weight shared any more: each reader has its own norm's gain in it. The stream is turned
        whole and once."""
        if anatomy.rotated is not None:
            raise ValueError("the stream is rotated already")
        self.check_whole(anatomy)
        blocks = tuple(replace(block, matrices={role: replace(matrix, stored=None)
                                                for role, matrix in block.matrices.items()})
                       for block in anatomy.blocks)
        return replace(anatomy, blocks=blocks, rotated=self.width)

    @classmethod
    def unsaid(cls, edits: Sequence[RotateStream], blocks: int) -> str:
        """The two products."""
        return "a rotation of the residual stream"

    def sentence(self) -> str:
        """In words."""
        return f"The residual stream of {self.width} channels is rotated between embedding and final norm."

    def facts(self, hash_of: Callable[[Sequence[str]], str]) -> dict[str, Any]:
        """Its signs."""
        return {"stream rotated with signs": self.signs}

    @classmethod
    def table(cls, edits: Sequence[RotateStream]) -> Table:
        """A row."""
        return Table("rotation of the stream", ("channels", "attentions", "MLPs"), [
            (e.width, len(e.attention), len(e.mlp)) for e in edits])
