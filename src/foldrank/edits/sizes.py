"""What an anatomy weighs: bytes of its matrices by part, as they are stored."""

from __future__ import annotations

from collections.abc import Iterator

from foldrank.edits.anatomy import Anatomy, Matrix
from foldrank.edits.storage import FewBits

PARTS = {"q": "q k v", "k": "q k v", "v": "q k v", "o": "o", "gate": "gate up", "up": "gate up", "down": "down"}
"""What reads one input is counted together, by role."""


def bytes_by_part(anatomy: Anatomy, item: int) -> dict[str, float]:
    """Bytes of the blocks' matrices by part; biases and norms are not counted. `item`: bytes of a float."""
    found: dict[str, float] = dict.fromkeys(PARTS.values(), 0.0)
    bases: set[str] = set()
    for block in anatomy.blocks:
        for role, matrix in block.matrices.items():
            found[PARTS[role]] += sum(numbers for numbers in _numbers(matrix, bases)) * bytes_each(matrix, item)
    return found


def bytes_each(matrix: Matrix, item: int) -> float:
    """Of one number: a float of `item` bytes, or few bits with their share of a scale and a zero point. In a storage
    that no edit makes, as floats."""
    few = matrix.few_bits
    if not isinstance(few, FewBits):
        return item
    return few.bits / 8 + (item + (0 if few.symmetric else few.bits / 8)) / few.block_size


def _numbers(matrix: Matrix, bases: set[str]) -> Iterator[int]:
    """Of W, or of B and of an A that was not counted yet."""
    n_in, n_out = matrix.shape
    if matrix.rank is None:
        yield n_in * n_out
        return
    yield matrix.rank * n_out
    if matrix.basis is None or matrix.basis not in bases:
        yield n_in * matrix.rank
    if matrix.basis is not None:
        bases.add(matrix.basis)
