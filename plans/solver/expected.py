"""What changes of the uncompressed model are expected to cost, before anything is tried.

Every rank of every site, every width of every MLP, and what an error costs at each place. Knows decoders and token ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from foldrank.edits.storage import FewBits
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.solver.fisher import Curve, output_roots, predicted_losses
from foldrank.plans.solver.layout import DOWN, Packed, Roles
from foldrank.plans.solver.moments import fisher_moments
from foldrank.plans.solver.narrowing import Narrowing, narrowing
from foldrank.plans.solver.rounding import rounding_losses
from foldrank.plans.width.channels import Order
from foldrank.progress import SILENT, Progress


@dataclass(frozen=True)
class Expected:
    """By block number: `curves` of nats by rank, `narrowings` of MLPs, `roots` of F at sites' outputs (`fisher.py`),
    F itself at the block's output (`streams` [C, C], `above.py`), and what `rounding` to few bits costs."""

    curves: dict[int, dict[Roles, Curve]] = field(default_factory=dict)
    narrowings: dict[int, Narrowing] = field(default_factory=dict)
    roots: dict[int, dict[Roles, Tensor]] = field(default_factory=dict)
    streams: dict[int, Tensor] = field(default_factory=dict)
    rounding: dict[int, dict[Roles, dict[int, float]]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, decoder: Decoder, ids_NT: np.ndarray, seed: int, packed: Packed, align: int, *, narrow: bool = True,
        storages: Sequence[FewBits] = (), progress: Progress = SILENT,
    ) -> Expected:
        """From the model's own gradients on these windows; widths in multiples of `align`. A block's moments, the
        largest of what is held, go as soon as they are used."""
        found = cls()
        for block, held in fisher_moments(decoder, ids_NT, seed, packed, progress):
            number = block.number
            found.roots[number] = output_roots(held)
            if narrow and "down" in block.roles:
                root = found.roots[number].get(DOWN)
                found.narrowings[number] = narrowing(block, held, root, ids_NT.size, align)
            if storages:
                found.rounding[number] = rounding_losses(block, held, ids_NT.size, storages)
            found.curves[number] = predicted_losses(block, held, ids_NT.size)
            if held.stream is not None:
                found.streams[number] = (held.stream / ids_NT.size).to(torch.float32)
        return found

    @property
    def orders(self) -> dict[int, Order]:
        """Channels of every MLP, those that stay longest first."""
        return {number: held.order for number, held in self.narrowings.items()}
