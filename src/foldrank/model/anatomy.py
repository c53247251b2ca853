"""The anatomy of a checkpoint, from config.json and the headers of its weights alone: no weight is read, no torch.

Written apart from the planner's view of a model and from the reference's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from foldrank.edits.anatomy import Anatomy, BlockAnatomy, Matrix
from foldrank.edits.base import BRANCHES
from foldrank.errors import SourceError
from foldrank.model import facts
from foldrank.model.modules import by_block, is_attention, role_widths, roles_of_module, stores_in_out
from foldrank.model.tensorfile import StoredTensor
from foldrank.model.tied import embedding_table, is_tied, stored_head
from foldrank.sites import ROLES

if TYPE_CHECKING:
    from foldrank.model.checkpoint import Checkpoint


def checkpoint_anatomy(checkpoint: Checkpoint) -> Anatomy:
    """What the checkpoint's decoder is made of. Raises SourceError where config.json does not tell the heads."""
    text = checkpoint.text_config
    told = facts.heads(text), facts.kv_heads(text), facts.head_size(text)
    heads, kv_heads, head_size = (fact or 0 for fact in told)
    if None in told:
        raise SourceError(checkpoint.path / "config.json", "does not tell heads and their size",
                          "it must name its attention heads, and the head size or the hidden size")
    geometry, in_out = (heads, kv_heads, head_size), stores_in_out(text.get("model_type"))
    blocks = tuple(_block(number, held, geometry, in_out)
                   for number, held in sorted(by_block(checkpoint.tensors).items()))
    tied = is_tied(text, checkpoint.tensors)
    table = embedding_table(checkpoint.tensors) if tied else stored_head(checkpoint.tensors)
    head = None if table is None else Matrix(_shape(table, in_out=False), dtype=table.dtype.name)
    return Anatomy(blocks, head, tied, heads, kv_heads, head_size)


def _block(
    number: int, held: Mapping[str, StoredTensor], geometry: tuple[int, int, int], in_out: bool
) -> BlockAnatomy:
    """A block of these tensors, by their names in it. Matrices of names that no known family has are not read."""
    found: dict[str, Matrix] = {}
    unread: set[str] = set()
    for name, tensor in held.items():
        path, _, parameter = name.rpartition(".")
        if parameter != "weight" or len(tensor.shape) < 2:
            continue
        if (roles := roles_of_module(path)) is None:
            unread.update(BRANCHES["attention" if is_attention(path) else "mlp"])
            continue
        n_in, n_out = _shape(tensor, in_out=in_out)
        widths = zip(roles, role_widths(roles, n_out, geometry), strict=True)
        found |= {role: Matrix((n_in, width), packed=roles, dtype=tensor.dtype.name) for role, width in widths}
    return BlockAnatomy(number, {role: found[role] for role in ROLES if role in found},
                        unread=frozenset(unread - found.keys()))


def _shape(tensor: StoredTensor, *, in_out: bool) -> tuple[int, int]:
    """[in, out] of a matrix that is stored so, or turned."""
    rows, columns = tensor.shape
    return (rows, columns) if in_out else (columns, rows)
