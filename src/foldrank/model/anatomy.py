"""The anatomy of a checkpoint, from config.json and the headers of its weights alone: no weight is read, no torch.

Written apart from the planner's view of a model and from the reference's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from foldrank.edits.anatomy import Anatomy, BlockAnatomy, Matrix
from foldrank.errors import SourceError
from foldrank.model import facts
from foldrank.model.modules import by_block, role_widths, roles_of_module, stores_in_out
from foldrank.model.tensorfile import StoredTensor
from foldrank.model.tied import embedding_table, is_tied, stored_head
from foldrank.sites import ROLES

if TYPE_CHECKING:
    from foldrank.model.checkpoint import Checkpoint

_WEIGHT = ".weight"


def checkpoint_anatomy(checkpoint: Checkpoint) -> Anatomy:
    """What the checkpoint's decoder is made of. Linears that no known family has are left out. Raises SourceError where
    config.json does not tell the heads."""
    text = checkpoint.text_config
    told = facts.heads(text), facts.kv_heads(text), facts.head_size(text)
    heads, kv_heads, head_size = (fact or 0 for fact in told)
    if None in told:
        raise SourceError(checkpoint.path / "config.json", "does not tell heads and their size",
                          "it must name its attention heads, and the head size or the hidden size")
    geometry, in_out = (heads, kv_heads, head_size), stores_in_out(text.get("model_type"))
    blocks = tuple(
        BlockAnatomy(number, dict(sorted(_matrices(held, geometry, in_out), key=lambda item: ROLES.index(item[0]))))
        for number, held in sorted(by_block(checkpoint.tensors).items())
    )
    tied = is_tied(text, checkpoint.tensors)
    table = embedding_table(checkpoint.tensors) if tied else stored_head(checkpoint.tensors)
    head = None if table is None else Matrix(table.shape[::-1], dtype=table.dtype.name)  # type: ignore[arg-type]
    return Anatomy(blocks, head, tied, heads, kv_heads, head_size)


def _matrices(
    held: Mapping[str, StoredTensor], geometry: tuple[int, int, int], in_out: bool
) -> Iterator[tuple[str, Matrix]]:
    for name, tensor in held.items():
        roles = roles_of_module(name.removesuffix(_WEIGHT)) if name.endswith(_WEIGHT) else None
        if roles is None or len(tensor.shape) != 2:
            continue
        n_in, n_out = tensor.shape if in_out else tensor.shape[::-1]
        for role, width in zip(roles, role_widths(roles, n_out, geometry), strict=True):
            yield role, Matrix((n_in, width), packed=roles, dtype=tensor.dtype.name)
