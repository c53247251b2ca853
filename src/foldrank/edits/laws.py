"""The laws between edits, stated once over what each touches: whatever kinds there are, these hold.

Phases ascend, two edits of one phase never write one part, nothing touches what was removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from foldrank.edits.base import EMBEDDING, HEAD, Part, Phase, parts_of
from foldrank.sites import Site

if TYPE_CHECKING:
    from foldrank.edits.anatomy import Anatomy, Matrix
    from foldrank.edits.base import Edit


def check_edits(edits: Sequence[Edit], blocks: int) -> None:
    """Whether such edits may stand in one plan for a model of so many blocks. Raises ValueError."""
    for one, other in pairwise(edits):
        if other.phase < one.phase:
            raise ValueError(f"{other.kind} comes before {one.kind}: {_named(other)} stands behind {_named(one)}")
    written: dict[Phase, set[Part]] = {}
    removed: set[Part] = set()
    for edit in edits:
        touch = edit.touch
        if beyond := [part for part in touch.parts if isinstance(part, Site) and part.block >= blocks]:
            raise ValueError(f"{_named(edit)}: block {max(beyond).block} does not exist: the source has {blocks}")
        if gone := touch.parts & removed:
            raise ValueError(f"{_named(edit)}: {_parts(gone)} left with an earlier edit")
        taken = written.setdefault(edit.phase, set())
        changes = touch.writes | touch.removes
        if twice := changes & taken:
            raise ValueError(f"{_named(edit)}: {_parts(twice)} edited twice")
        taken |= changes
        removed |= touch.removes


def surviving(edits: Iterable[Edit], blocks: int) -> tuple[int, ...]:
    """Of so many source blocks the numbers of those that stay, ascending."""
    gone = frozenset[Part]().union(*(edit.touch.removes for edit in edits))
    return tuple(block for block in range(blocks) if not parts_of([block]) <= gone)


def check_digests(site: Site, digests: Sequence[Any]) -> None:
    """One for each role. Raises ValueError."""
    if len(digests) != len(site.roles):
        raise ValueError(f"{site}: {len(digests)} digests for {len(site.roles)} roles")


def check_shape(site: Site, shape: tuple[int, int], anatomy: Anatomy) -> None:
    """Whether the site's matrix [in, out] is what an edit says. Raises ValueError."""
    parts = [anatomy.matrix(part) for part in site.parts]
    found = parts[0].shape[0], sum(matrix.shape[1] for matrix in parts)
    if found != tuple(shape) or any(matrix.shape[0] != found[0] for matrix in parts):
        raise ValueError(f"{site}: is {list(found)}, the edit says {list(shape)}")


def check_head(shape: tuple[int, int], anatomy: Anatomy) -> Matrix:
    """The head, one matrix [in, out] of this shape. Raises ValueError where it is another."""
    head = anatomy.head
    if head is None or head.shape != tuple(shape) or head.rank is not None:
        raise ValueError(f"the head is {head or 'no plain matrix'}, not {list(shape)}")
    return head


def check_table(shape: tuple[int, int], anatomy: Anatomy) -> None:
    """Whether the table of words, [width, words] by this shape, is no pair. Raises ValueError."""
    if anatomy.embedding_rank is not None:
        raise ValueError(f"the embedding is a pair of rank {anatomy.embedding_rank}, not {list(shape)}")


def _named(edit: Edit) -> str:
    return edit.sentence().partition(":")[0].rstrip(".")


def _parts(parts: frozenset[Part] | set[Part]) -> str:
    sites = sorted(part for part in parts if isinstance(part, Site))
    shown = [*map(str, sites[:3]), *(f"the {part}" for part in (HEAD, EMBEDDING) if part in parts)]
    return ", ".join(shown) + (f" and {len(sites) - 3} more" if len(sites) > 3 else "")
