"""The closed union of edits a plan may hold. Source numbering throughout; y = x @ W, W [in, out].

Knows nothing of how an edit was computed, nor of how a graph is changed.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from foldrank.digests import WeightDigest
from foldrank.sites import Site

_STRICT = ConfigDict(extra="forbid", strict=True)


def rank_limit(n_in: int, n_out: int) -> int:
    """Largest rank at which a pair A [in, rank], B [rank, out] holds fewer numbers than W [in, out]; may be 0."""
    return (n_in * n_out - 1) // (n_in + n_out)


@dataclass(frozen=True, config=_STRICT)
class FoldBlocks:
    """Block `into` gets the linear combination of the named blocks' projections (and biases); the others leave.

    `norms` tells whose norm gains the merged block keeps: those of the lowest ("bottom") or highest ("top") block.
    """

    into: int
    blocks: tuple[int, ...]
    coefficients: dict[int, float]
    norms: Literal["bottom", "top"] = "bottom"
    kind: Literal["fold_blocks"] = "fold_blocks"

    def __post_init__(self) -> None:
        if len(self.blocks) < 2 or self.blocks != tuple(range(self.blocks[0], self.blocks[-1] + 1)):
            raise ValueError(f"blocks {self.blocks} are not two or more neighbours in ascending order")
        if self.blocks[0] < 0 or self.into not in self.blocks:
            raise ValueError(f"into {self.into} is not among blocks {self.blocks}")
        if set(self.coefficients) != set(self.blocks):
            raise ValueError(f"coefficients must name exactly the blocks {self.blocks}")
        if not all(math.isfinite(c) for c in self.coefficients.values()):
            raise ValueError("coefficients must be finite")

    @property
    def sources(self) -> tuple[int, ...]:
        """The blocks whose projections enter the combination, ascending."""
        return tuple(b for b in self.blocks if self.coefficients[b] != 0.0)

    @property
    def leaving(self) -> tuple[int, ...]:
        """The blocks that leave."""
        return tuple(b for b in self.blocks if b != self.into)

    @property
    def norm_source(self) -> int:
        """The block whose norm gains stay."""
        return self.blocks[0] if self.norms == "bottom" else self.blocks[-1]


@dataclass(frozen=True, config=_STRICT)
class LowRank:
    """`x @ W` becomes `(x @ A) @ B`: A [in, rank], B [rank, out]. `replaces` digests W, single roles in storage order.

    Where a fold of the same plan writes the site, W is what the fold leaves there.
    """

    site: Site
    shape: tuple[int, int]
    rank: int
    factors: tuple[str, str]
    replaces: tuple[WeightDigest, ...]
    kind: Literal["low_rank"] = "low_rank"

    def __post_init__(self) -> None:
        limit = rank_limit(*self.shape)
        if min(self.shape) < 1 or not 1 <= self.rank <= limit:
            raise ValueError(f"{self.site}: rank {self.rank} saves nothing: {self.shape} needs 1..{limit}")
        if len(self.replaces) != len(self.site.roles):
            raise ValueError(f"{self.site}: {len(self.replaces)} digests for {len(self.site.roles)} roles")


@dataclass(frozen=True, config=_STRICT)
class ReplaceWeight:
    """The site's weight becomes the named tensor [in, out]. `replaces` as in LowRank."""

    site: Site
    tensor: str
    replaces: tuple[WeightDigest, ...]
    kind: Literal["replace_weight"] = "replace_weight"

    def __post_init__(self) -> None:
        if len(self.replaces) != len(self.site.roles):
            raise ValueError(f"{self.site}: {len(self.replaces)} digests for {len(self.site.roles)} roles")


@dataclass(frozen=True, config=_STRICT)
class FewBits:
    """How a matrix [in, out] is stored: along `in`, every `block_size` values of a column share a scale, and where not
    `symmetric` a zero point (ONNX Runtime's MatMulNBits). `accuracy` is that operator's accuracy_level: 0 computes with
    the activations as they are, 4 rounds them to int8 as well."""

    bits: Literal[4, 8]
    block_size: Literal[16, 32, 64, 128, 256]
    symmetric: bool
    accuracy: Literal[0, 4]


@dataclass(frozen=True, config=_STRICT)
class QuantizeWeight:
    """What the other edits leave at a single-role site, a weight or both factors of a pair, is stored in few bits.

    `replaces` digests the source's weight, or what a fold leaves there, as in LowRank.
    """

    site: Site
    shape: tuple[int, int]
    storage: FewBits
    replaces: tuple[WeightDigest, ...]
    kind: Literal["quantize_weight"] = "quantize_weight"

    def __post_init__(self) -> None:
        if len(self.site.roles) != 1 or len(self.replaces) != 1 or min(self.shape) < 1:
            raise ValueError(f"{self.site}: one role, its shape and its digest are asked, not {self.site.roles}")


@dataclass(frozen=True, config=_STRICT)
class QuantizeHead:
    """The matrix that makes the logits is stored in few bits; an embedding that it was tied to stays as it is."""

    shape: tuple[int, int]
    storage: FewBits
    replaces: WeightDigest
    kind: Literal["quantize_head"] = "quantize_head"


Edit = Annotated[
    FoldBlocks | LowRank | ReplaceWeight | QuantizeWeight | QuantizeHead, Field(discriminator="kind")
]
