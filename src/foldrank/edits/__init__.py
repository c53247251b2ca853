"""Edits: what a plan may do to a model. One line of `KINDS` is all that says which kinds there are.

Of the kind `low_rank`, the class `LowRank` stands in `foldrank.edits.low_rank`; its other rooms are files of the same
name in plans/simulate, plans/reference, passes and tests/kinds.
"""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Final, Union

from pydantic import Field, TypeAdapter

from foldrank.edits.anatomy import Anatomy
from foldrank.edits.base import Edit

__all__ = ["KINDS", "AnyEdit", "Edit", "class_of", "on_edits", "parse", "room"]

KINDS: Final = (
    "fold_blocks",
    "drop_branch",
    "slice_mlp",
    "add_bias",
    "pre_rmsnorm",
    "rotate_stream",
    "replace_weight",
    "low_rank",
    "low_rank_table",
    "share_weights",
    "quantize_weight",
    "quantize_head",
    "quantize_embedding",
    "add_low_rank",
)
"""Every kind. Where a phase has several, passes run in this order."""


def class_of(kind: str) -> type[Edit]:
    """The class of a kind."""
    found: type[Edit] = getattr(room("foldrank.edits", kind), kind.title().replace("_", ""))
    return found


def room(package: str, kind: str) -> Any:
    """The module that does a kind's work in a package. Raises ModuleNotFoundError where the kind has none there."""
    return importlib.import_module(f"{package}.{kind}")


def on_edits(edits: Iterable[Edit], anatomy: Anatomy) -> Anatomy:
    """What edits make of an anatomy, one after the other. Raises ValueError where one does not fit it."""
    return functools.reduce(lambda found, edit: edit.on(found), edits, anatomy)


def parse(rows: Any) -> tuple[Edit, ...]:
    """Edits of a plan's JSON. Raises ValueError."""
    return TypeAdapter(tuple[AnyEdit, ...]).validate_json(json.dumps(rows), strict=True)


if TYPE_CHECKING:
    AnyEdit = Edit
else:
    AnyEdit = Annotated[Union[tuple(map(class_of, KINDS))], Field(discriminator="kind")]  # noqa: UP007
