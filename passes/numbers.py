"""Where numbers, scales and zero points of matrices in few bits come from: the plan, or a quantizer that is handed in.

Laid out as MatMulNBits reads them, whichever form the graph gets. Knows no nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from foldrank.edits.storage import FewBits, Numbers, StorageEdit
from foldrank.errors import PassRefused
from foldrank.graph.linear.linears import StoredMatrix
from foldrank.graph.linear.weights import Array, read
from foldrank.passes.base import Quantizer, Work

Part = Callable[[int], Array]
"""Numbers, scales, zero points by place; asked for in that order."""


@dataclass(frozen=True)
class Source:
    """The plan's `arrays`, or, for what it rounds to nearest, the `quantizer`."""

    arrays: Mapping[str, Array]
    quantizer: Quantizer | None

    @classmethod
    def of(cls, work: Work, edits: Sequence[StorageEdit]) -> Source:
        """What edits need. Raises ValueError where a quantizer is needed and was not handed in."""
        if work.quantizer is None and any(not edit.held for edit in edits):
            raise ValueError("the plan rounds weights to nearest: a quantizer is needed")
        return cls(work.arrays, work.quantizer)

    def misfits(
        self, where: str, shape: tuple[int, int], storage: FewBits, held: Sequence[Numbers]
    ) -> Iterator[str]:
        """In what planned numbers, joined along `out`, are not those of a matrix [in, out]."""
        wanted = storage.layout(shape)[: 2 if storage.symmetric else 3]
        for part, expected in enumerate(wanted):
            shapes = [self.arrays[_names(numbers)[part]].shape for numbers in held]
            found = (sum(shape[0] for shape in shapes), *shapes[0][1:])
            if found != expected or any(shape[1:] != expected[1:] for shape in shapes):
                yield f"{where}: planned numbers are {found}, the graph needs {expected}"
                return

    def parts(self, matrix: StoredMatrix, storage: FewBits, held: Sequence[Numbers]) -> Part:
        """Of one matrix, or of planned ones side by side."""
        return partial(self._joined, held) if held else _Rounded(matrix, storage, self.quantizer).of

    def _joined(self, held: Sequence[Numbers], part: int) -> Array:
        return np.concatenate([self.arrays[_names(numbers)[part]] for numbers in held])


def _names(numbers: Numbers) -> tuple[str, ...]:
    """Of numbers, scales, and zero points where there are any."""
    return (numbers.numbers, numbers.scales, *(() if numbers.zeros is None else (numbers.zeros,)))


class _Rounded:
    """What the quantizer makes of one matrix, kept until the last of its parts was asked for."""

    def __init__(self, matrix: StoredMatrix, storage: FewBits, quantizer: Quantizer | None) -> None:
        assert quantizer is not None
        self._storage, self._quantizer = storage, quantizer
        self._tensor, self._transposed = matrix.tensor, matrix.transposed  # the node that reads it leaves

    def of(self, part: int) -> Array:
        """Computed once where parts are asked for in their order."""
        found = self._found[part]
        assert found is not None
        if part == 2 - self._storage.symmetric:
            del self.__dict__["_found"]
        return np.ascontiguousarray(found)

    @cached_property
    def _found(self) -> tuple[Array, Array, Array | None]:
        weight = read(self._tensor).astype(np.float32)
        if not np.isfinite(weight).all():
            raise PassRefused("quantize", [f"{self._tensor.name} holds NaN or infinity"], "export again")
        storage = self._storage
        whole = weight.T if self._transposed else weight
        return self._quantizer(whole, storage.bits, storage.block_size, storage.symmetric)
