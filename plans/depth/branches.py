"""What methods that drop attentions and MLPs share: which may leave, how many, and the edits that make them leave.

One attention stays always: a decoder without a cache is none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as settings_dataclass

from foldrank.edits.base import BRANCHES, Branch
from foldrank.edits.drop_branch import DropBranch
from foldrank.errors import SourceError
from foldrank.plans.method import Result, Task
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.simulate import apply_edits

Which = Literal["attention", "mlp", "both"]


class Place(NamedTuple):
    """A branch of a block."""

    block: int
    branch: Branch

    def __str__(self) -> str:
        return f"block.{self.block:02d}.{self.branch}"


@settings_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Budget:
    """Exactly one of keep (share of the blocks' weights left, at most) and branches (number left of those that may
    leave). `windows`, `tokens` of the text."""

    keep: Annotated[float, Field(gt=0, le=1)] | None = None
    branches: Annotated[int, Field(ge=0)] | None = None
    windows: Annotated[int, Field(ge=1)] = 16
    tokens: Annotated[int, Field(ge=2)] = 512

    def __post_init__(self) -> None:
        if (self.keep is None) == (self.branches is None):
            raise ValueError("give exactly one of keep, branches")

    def ids(self, task: Task) -> np.ndarray:
        """The token ids [N, T] to judge branches by."""
        return task.ids[: self.windows, : self.tokens]


@settings_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Settings(Budget):
    """`which` branches may leave."""

    which: Which = "both"


@dataclass(frozen=True)
class Cut:
    """A decoder, and the branches that left it."""

    source: Decoder
    gone: frozenset[Place] = frozenset()

    @cached_property
    def decoder(self) -> Decoder:
        """The decoder without them."""
        return apply_edits(edits_of(self.gone), self.source, {})

    @property
    def kept(self) -> float:
        """Share of the blocks' weights that is left."""
        return self.decoder.site_parameters / self.source.site_parameters

    def without(self, place: Place) -> Cut:
        """With one branch less."""
        return Cut(self.source, self.gone | {place})

    def giving_back(self, place: Place) -> Cut:
        """With one branch there again."""
        return Cut(self.source, self.gone - {place})

    def candidates(self, which: Which) -> list[Place]:
        """Branches that may leave now, from the input on."""
        attentions = sum("attention" in branches_of(self.source, block.number) for block in self.source.blocks)
        left = attentions - sum(place.branch == "attention" for place in self.gone)
        return [place for place in places(self.source, which)
                if place not in self.gone and (place.branch != "attention" or left > 1)]


def places(decoder: Decoder, which: Which) -> Iterator[Place]:
    """Branches of these kinds, from the input on."""
    for block in decoder.blocks:
        yield from (Place(block.number, branch) for branch in branches_of(decoder, block.number)
                    if which in (branch, "both"))


def branches_of(decoder: Decoder, number: int) -> tuple[Branch, ...]:
    """Branches of a block."""
    roles = set(decoder.block(number).roles)
    return tuple(branch for branch, own in BRANCHES.items() if roles & set(own))


Choice = Callable[[Cut, list[Place]], Place]
"""Of the places given, one, for the model as cut so far."""


def ranking(scores: Mapping[Place, float]) -> tuple[Choice, Choice]:
    """The place of the least score, and that of the most; of equals the upper and the lower one."""
    def key(place: Place) -> tuple[float, int]:
        return scores[place], -place.block

    return lambda _cut, able: min(able, key=key), lambda _cut, able: max(able, key=key)


def edits_of(gone: Collection[Place]) -> tuple[DropBranch, ...]:
    """From the input on."""
    order = tuple(BRANCHES)
    return tuple(DropBranch(*place) for place in sorted(gone, key=lambda p: (p.block, order.index(p.branch))))


def cut_down(
    task: Task, budget: Budget, which: Which, name: str, next_one: Choice, given_back: Choice,
    spared: Collection[int] = (),
) -> Cut:
    """Take branches away, each time the one that `next_one` names of those that may leave, until the budget holds; then
    let back in what it does not need, the ones that `given_back` names: a large branch may have left after a small one.
    `spared`: blocks that keep theirs. Raises ValueError where the budget cannot be reached, SourceError where a block
    norms the sum behind a branch, which then is more than a sum."""
    decoder = task.decoder
    if getattr(decoder.model.config, "do_layer_norm_before", True) is False:
        raise SourceError(type(decoder.model).__name__, "norms what its branches are added to (do_layer_norm_before is "
                          "false), so no branch can be dropped", "use a method that folds blocks")
    cut = Cut(decoder)
    most = sum(place.block not in spared for place in places(decoder, which))
    while not (cut.kept <= (budget.keep or 0) + 1e-12 if budget.branches is None
               else most - len(cut.gone) <= budget.branches):
        able = [place for place in cut.candidates(which) if place.block not in spared]
        if not able:
            asked = f"keep={budget.keep}" if budget.branches is None else f"branches={budget.branches}"
            least = f"{most - len(cut.gone)} branches and {cut.kept:.3g} of the blocks' weights are the least"
            raise ValueError(f"{name}: {asked} cannot be reached: {least}")
        cut = cut.without(next_one(cut, able))
    while budget.keep is not None and (
            spare := [p for p in sorted(cut.gone) if cut.giving_back(p).kept <= budget.keep + 1e-12]):
        cut = cut.giving_back(given_back(cut, spare))
    return cut


def result(cut: Cut, scores: Mapping[Place, float], predicted: Mapping[str, float] | None = None) -> Result:
    """The edits, and what each branch was judged by."""
    return Result(
        cut.decoder, edits_of(cut.gone), kept=cut.kept, predicted=dict(predicted or {}),
        diagnostics={"branch_scores": {str(place): score for place, score in scores.items()}},
    )
