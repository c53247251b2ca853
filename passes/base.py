"""What every pass is: frozen data with a name, an effect, and `edit`, which finds everything, then changes anything."""

from __future__ import annotations

import abc
import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from foldrank.digests import WeightDigest
from foldrank.edits.base import Part
from foldrank.graph.linear.weights import Array
from foldrank.graph.view.decoder import View
from foldrank.reports.receipts import Row

Quantizer = Callable[[Array, int, int, bool], tuple[Array, Array, Array | None]]
"""(W [in, out], bits, block size, symmetric) to numbers, scales and zero points, as MatMulNBits reads them."""


class Effect(enum.Enum):
    """What a pass does to the numbers a graph computes."""

    EXACT = "exact"
    ROUNDING = "rounding"
    APPROXIMATE = "approximate"


class Stage(enum.IntEnum):
    """When a pass of an edit runs: contents first, then what leaves the graph, so that site numbers stay true; clean-up
    lies between that and storage. Last comes what stands beside all this."""

    CONTENT = 0
    REMOVAL = 1
    STORAGE = 2
    BESIDE = 3


@dataclass(frozen=True)
class Work:
    """What the passes of a kind's edits are made with. `weights`: digests of the blocks that folds name, as the source
    has them; `source` names the plan's checkpoint in messages; `quantizer` is there where the plan stores few bits.
    `edited`: parts that earlier edits of the plan write; `written`: those of them that no digest of the source proves.
    """

    arrays: Mapping[str, Array]
    weights: Mapping[str, WeightDigest]
    source: str
    quantizer: Quantizer | None = None
    edited: frozenset[Part] = frozenset()
    written: frozenset[Part] = frozenset()


@dataclass(frozen=True)
class Change:
    """One thing a pass did: where (a site, a block, an input), bytes of initializers before and after, and why."""

    where: str
    bytes_before: int
    bytes_after: int
    reason: str


@dataclass(frozen=True)
class Receipt:
    """What a pass did."""

    name: str
    effect: Effect
    changes: tuple[Change, ...] = ()

    def rows(self) -> list[Row]:
        """As the report of receipts holds them, one for each change."""
        return [
            Row(self.name, self.effect.value, change.where, change.bytes_before, change.bytes_after, change.reason)
            for change in self.changes
        ]


class GraphPass(ir.passes.InPlacePass):
    """A pass of onnx-ir whose result is a receipt. Subclasses are frozen dataclasses."""

    name: ClassVar[str]
    effect: ClassVar[Effect]
    keeps_view: ClassVar[bool] = False
    """Whether a view read before its change is true after it as well: it touches nothing that a view is read from."""

    @abc.abstractmethod
    def edit(self, model: ir.Model, view: View | None = None) -> Receipt:
        """Change the graph, or raise PassRefused or PlanMismatch and leave it as it was.

        `view`: the model as it is now, where the caller has read it already; worth nothing after a change, unless the
        pass `keeps_view`.
        """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """onnx-ir's way in."""
        return ir.passes.PassResult(model, modified=bool(self.edit(model).changes))
