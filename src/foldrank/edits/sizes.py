"""What an anatomy weighs: bytes of its matrices by part, as they are stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from foldrank.edits.anatomy import Anatomy, Matrix
from foldrank.edits.storage import FewBits
from foldrank.sites import Site

PARTS = {"q": "q k v", "k": "q k v", "v": "q k v", "o": "o", "gate": "gate up", "up": "gate up", "down": "down"}
"""What reads one input is counted together, by role."""


def bytes_by_part(anatomy: Anatomy, item: int) -> dict[str, float]:
    """Bytes of the blocks' matrices by part, as they are stored: what several blocks read counts once. Biases and norms
    are not counted. `item`: bytes of a float."""
    found: dict[str, float] = dict.fromkeys(PARTS.values(), 0.0)
    bases: set[str] = set()
    for block in anatomy.blocks:
        for role, matrix in block.matrices.items():
            if Site(block.number, (role,)) not in anatomy.owners:
                found[PARTS[role]] += sum(_numbers(matrix, bases)) * bytes_each(matrix, item)
            if (pair := matrix.beside) is not None:
                found[PARTS[role]] += sum(_pair(matrix.shape, pair.rank, pair.basis, bases)) * item
    return found


def bytes_read(anatomy: Anatomy, item: int) -> dict[str, float]:
    """The same as a token reads them: what several blocks read counts each time, an A that pairs of several blocks
    share too."""
    found: dict[str, float] = dict.fromkeys(PARTS.values(), 0.0)
    for block in anatomy.blocks:
        alone = bytes_by_part(replace(anatomy, blocks=(block,)), item)
        found = {part: size + alone[part] for part, size in found.items()}
    return found


def bytes_of(matrix: Matrix, item: int) -> float:
    """Of one matrix, or of the pair in its place; not of what stands beside it."""
    return sum(_numbers(matrix, set())) * bytes_each(matrix, item)


def bytes_each(matrix: Matrix, item: int) -> float:
    """Of one number: a float of `item` bytes, or few bits with their share of a scale and a zero point. In a storage
    that no edit makes, as floats."""
    few = matrix.few_bits
    if not isinstance(few, FewBits):
        return item
    return few.bits / 8 + (item + (0 if few.symmetric else few.bits / 8)) / few.block_size


def _numbers(matrix: Matrix, bases: set[str]) -> Iterator[int]:
    """Of W, or of the pair in its place."""
    if matrix.rank is None:
        yield matrix.shape[0] * matrix.shape[1]
    else:
        yield from _pair(matrix.shape, matrix.rank, matrix.basis, bases)


def _pair(shape: tuple[int, int], rank: int, basis: str | None, bases: set[str]) -> Iterator[int]:
    """Of B, and of an A that was not counted yet."""
    yield rank * shape[1]
    if basis is None or basis not in bases:
        yield shape[0] * rank
    if basis is not None:
        bases.add(basis)
