"""Where a search stands, on a shelf: an interrupted one goes on from its last step.

A layout with the account of how it came about is enough: the model is refit from it, block by block, as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

from foldrank.plans.shelf import Finding, Shelf
from foldrank.plans.solver.layout import Layout, Roles, Span
from foldrank.plans.solver.moves import Unit

Factors = dict[tuple[int, Unit], float]
"""Loss measured over loss predicted, for moves of one kind at one place."""


@dataclass(frozen=True)
class Step:
    """What one step took, for the report: what was predicted, what was measured when it was tried, what it became."""

    low: int
    unit: str
    saved: float
    predicted: float
    tried: float
    loss: float

    def measured(self, loss: float) -> Step:
        """With the loss that all of it was measured to have."""
        return replace(self, tried=loss, loss=loss)


@dataclass
class Journal:
    """The account of one search; `name` tells it apart on the shelf. Without a shelf nothing is put down."""

    name: str = "search"
    shelf: Shelf | None = None
    steps: list[Step] = field(default_factory=list)
    factors: Factors = field(default_factory=dict)

    def last(self) -> Layout | None:
        """The layout after the last step that was put down, its account with it; None before the first."""
        held = self.shelf and self.shelf.get(self.name)
        if not held:
            return None
        self.steps[:] = [Step(**step) for step in held.values["steps"]]
        self.factors.update({(low, _unit(unit)): factor for low, unit, factor in held.values["factors"]})
        return tuple(map(_span, held.values["layout"]))

    def put(self, layout: Layout) -> None:
        """Put down where the search stands."""
        if self.shelf is None:
            return
        self.shelf.put(self.name, Finding(values={
            "layout": [{**asdict(span), "ranks": _by_site(span.ranks), "bits": _by_site(span.bits)} for span in layout],
            "steps": [asdict(step) for step in self.steps],
            "factors": [[low, unit, factor] for (low, unit), factor in self.factors.items()],
        }))


def _by_site(numbers: Mapping[Roles, int]) -> list[Any]:
    return [[list(roles), number] for roles, number in numbers.items()]


def _span(held: Mapping[str, Any]) -> Span:
    return Span(**{**held, **{name: {tuple(roles): number for roles, number in held[name]}
                              for name in ("ranks", "bits")}})


def _unit(held: Any) -> Unit:
    return cast(Unit, held if isinstance(held, str) else tuple(tuple(roles) for roles in held))
