"""Where a bundle's bytes are, before and after, from shapes alone: config.json, the plan's edits and the stored dtype.

Knows decoders of the Llama kind (q k v o, gate up down). For another kind it says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from foldrank.edits import on_edits
from foldrank.edits.anatomy import Anatomy, BlockAnatomy, Matrix
from foldrank.edits.low_rank import rank_limit
from foldrank.edits.sizes import bytes_by_part, bytes_of, bytes_read
from foldrank.model import facts
from foldrank.model.plain import plain_shapes
from foldrank.reporting import lookup
from foldrank.reporting.evidence import Evidence
from foldrank.sites import Site

ROTATION = "rotation"
"""The part that the matrix which turns the stream is."""

ITEM_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True)
class Share:
    """Bytes of one part of the model in the dense and in this bundle."""

    part: str
    dense: int
    here: int


@dataclass(frozen=True)
class Split:
    """Weights by part, and the key/value cache at `context` positions, batch 1. A tied head is counted once, and so is
    what several blocks share, but for `read`: the blocks' weights as a token reads them, each time."""

    weights: tuple[Share, ...]
    cache: Share
    context: int
    blocks: Share
    read: Share

    @property
    def dense(self) -> int:
        """Bytes of all weights counted, dense."""
        return sum(share.dense for share in self.weights)

    @property
    def here(self) -> int:
        """Bytes of all weights counted, in this bundle."""
        return sum(share.here for share in self.weights)


def role_shapes(evidence: Evidence) -> dict[str, tuple[int, int]] | None:
    """[in, out] of each role in the source, or None for a decoder of another kind."""
    if (found := plain_shapes(evidence.config)) is None:
        return None
    narrowed = (item for edit in evidence.edits for item in edit.shapes.items())
    return found | {part.role: shape for part, shape in narrowed if isinstance(part, Site)}


def split(evidence: Evidence, context: int = 1024) -> Split | None:
    """The split, or None where a shape, a count of blocks or the dtype is not known."""
    shapes, item = role_shapes(evidence), ITEM_BYTES.get(lookup.text(evidence.manifest, "dtype") or "")
    before, vocabulary = evidence.source_blocks, facts.vocabulary(evidence.config)
    if shapes is None or item is None or not before or not vocabulary or evidence.cache_shape is None:
        return None
    dense = _dense(shapes, before, vocabulary, evidence)
    try:
        here = on_edits(evidence.edits, dense)
    except ValueError:
        return None
    held = bytes_by_part(here, item)
    weights = [Share(part, round(size), round(held[part])) for part, size in bytes_by_part(dense, item).items()]
    shape = shapes["q"][0], vocabulary
    table = item * shape[0] * shape[1]
    few = round(bytes_of(here.head, item)) if here.head else 0
    words = round(bytes_of(Matrix(shape, here.embedding_rank, here.embedding), item))
    if dense.tied:  # a head of its own is kept beside the table
        weights.append(Share("embedding and head", table, words + (0 if here.tied else few)))
    else:
        weights += [Share("embedding", table, words), Share("head", table, few)]
    if isinstance(here.rotated, int):
        weights.append(Share(ROTATION, 0, item * here.rotated**2))
    per_block = 2 * item * evidence.cache_shape[0] * evidence.cache_shape[1] * context
    blocks, read = (Share(name, round(sum(count(dense, item).values())), round(sum(count(here, item).values())))
                    for name, count in (("blocks", bytes_by_part), ("blocks, as a token reads them", bytes_read)))
    cache = Share("KV cache", before * per_block, len(here.cached) * per_block)
    return Split(tuple(weights), cache, context, blocks, read)


def _dense(shapes: Mapping[str, tuple[int, int]], blocks: int, vocabulary: int, evidence: Evidence) -> Anatomy:
    """The source's anatomy, all blocks alike."""
    kv_heads, head_size = evidence.cache_shape or (1, 1)
    matrices = {role: Matrix(shape) for role, shape in shapes.items()}
    return Anatomy(
        tuple(BlockAnatomy(number, matrices) for number in range(blocks)), Matrix((shapes["q"][0], vocabulary)),
        lookup.at(evidence.config, "tie_word_embeddings") is True, shapes["q"][1] // head_size, kv_heads, head_size,
    )


def largest_rank(shape: tuple[int, int]) -> int:
    """The rank at which a pair stops saving."""
    return rank_limit(*shape)
