"""FinerCut (arXiv 2405.18218): again and again drop the attention or MLP whose absence changes the output least.

Change is the mean KL divergence, in nats a token, from the original's next-token distribution to that of the model as
cut so far less the candidate (the paper offers cosine and norm too). The order of drops therefore counts what the
earlier ones did to the later ones.

`branches` counts branches, and a step is the best of all single drops. `keep` counts weights, of which an attention has
few; there a step is the one that adds least for each number it frees, and of three ways to spend the budget the one
that diverges least is taken: all that a step frees counts, only what the budget still needs counts, and the ranking of
`llm_drop`. What the budget does not need in the end returns.

Cost: a candidate runs its block and what lies above it, on states kept for every block of the model as cut so far. Of
the original, log-probabilities [windows, tokens, vocabulary] are held, float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from typing import Annotated

import numpy as np
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as settings_dataclass
from torch import Tensor

from foldrank.edits.base import Phase
from foldrank.plans.depth import branches
from foldrank.plans.depth.branches import Cut, Place, cut_down, result
from foldrank.plans.method import Method, Result, Task
from foldrank.plans.methods import llm_drop
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.models.words import Words
from foldrank.plans.shelf import Figures
from foldrank.progress import Progress


@settings_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Settings(branches.Settings):
    """Of each of the first `windows` windows the first `tokens` tokens are used."""

    windows: Annotated[int, Field(ge=1)] = 8
    tokens: Annotated[int, Field(ge=2)] = 128


def words(decoder: Decoder, hidden_NTC: Tensor) -> Words:
    """What the model says of next tokens, where the last block's output is this."""
    with torch.no_grad():
        return Words.joined(Words.of(decoder.logits(window)) for window in hidden_NTC.split(1))


def divergence(original: Words, decoder: Decoder, hidden_NTC: Tensor) -> float:
    """Mean KL(original || this) in nats a token, where the last block's output is this."""
    total = 0.0
    with torch.no_grad():
        for place, window in enumerate(hidden_NTC.split(1)):
            total += float(original[place : place + 1].divergence(decoder.logits(window)).sum(dtype=torch.float64))
    return total / (hidden_NTC.shape[0] * hidden_NTC.shape[1])


@dataclass(frozen=True)
class Prefixes:
    """What enters each block of a cut model [N, T, C], by the block's number."""

    cut: Cut
    inputs: Mapping[int, Tensor]

    @classmethod
    def of(cls, cut: Cut, ids_NT: np.ndarray) -> Prefixes:
        """Run the cut model once."""
        hidden, inputs = cut.source.embed(ids_NT), {}
        with torch.no_grad():
            for block in cut.decoder.blocks:
                inputs[block.number] = hidden
                hidden = cut.source.run(block, hidden)
        return cls(cut, inputs)

    def without(self, place: Place) -> Tensor:
        """The last block's output [N, T, C] with one branch less; what lies below it is not run."""
        hidden = self.inputs[place.block]
        with torch.no_grad():
            for block in self.cut.without(place).decoder.blocks:
                if block.number >= place.block:
                    hidden = self.cut.source.run(block, hidden)
        return hidden

    def divergence(self, original: Words, place: Place) -> float:
        """That of the model with one branch less."""
        return divergence(original, self.cut.source, self.without(place))


@dataclass
class Greedy:
    """Choices of one run: by the divergence that a step leaves, or, with `freed`, by what it adds for each part of the
    weights that it frees."""

    source: Decoder
    ids: np.ndarray
    original: Words
    figures: Figures
    progress: Progress
    freed: Callable[[Cut, Place], float] | None
    steps: dict[Place, float] = field(default_factory=dict)

    def divergence(self, cut: Cut) -> float:
        """Of a cut model, run whole."""
        return self._known(cut, lambda: divergence(self.original, self.source, cut.decoder.forward(self.ids)))

    def next_one(self, cut: Cut, able: list[Place]) -> Place:
        """The one to drop next."""
        prefixes, now = Prefixes.of(cut, self.ids), self.divergence(cut)
        found = {place: self._known(cut.without(place), partial(prefixes.divergence, self.original, place))
                 for place in able}

        def cost(place: Place) -> tuple[float, int]:
            return (found[place] - now) / (1.0 if self.freed is None else self.freed(cut, place)), -place.block

        best = min(able, key=cost)
        self.steps[best] = found[best]
        return best

    def given_back(self, cut: Cut, spare: list[Place]) -> Place:
        """The one whose return leaves least."""
        best = min(spare, key=lambda place: (self.divergence(cut.giving_back(place)), place.block))
        del self.steps[best]
        return best

    def _known(self, cut: Cut, measure: Callable[[], float]) -> float:
        self.progress.advance("finercut")
        return self.figures.of(" ".join(sorted(map(str, cut.gone))), measure) if cut.gone else 0.0


def run(task: Task, settings: Settings) -> Result:
    """Drop them. Raises as `cut_down`."""
    ids, decoder, keep = settings.ids(task), task.decoder, settings.keep
    original, figures = words(decoder, decoder.forward(ids)), Figures(task.shelf, "divergences")
    ways: list[Callable[[Cut, Place], float] | None] = [None]
    if keep is not None:
        ways = [lambda cut, place: cut.kept - cut.without(place).kept,
                lambda cut, place: cut.kept - max(keep, cut.without(place).kept)]
    task.progress.start("finercut", None)
    found: list[tuple[float, Cut, Mapping[Place, float]]] = []
    for freed in ways:
        greedy = Greedy(decoder, ids, original, figures, task.progress, freed)
        cut = cut_down(task, settings, settings.which, "finercut", greedy.next_one, greedy.given_back)
        found.append((greedy.divergence(cut), cut, greedy.steps))
    if keep is not None:
        ranked, likeness = llm_drop.ranked(task, settings, "finercut")
        found.append((greedy.divergence(ranked), ranked, likeness))
    task.progress.finish("finercut")
    least, cut, scores = min(found, key=itemgetter(0))
    return result(cut, scores, {"finercut.kl_nats": least})


METHOD = Method("finercut", Settings, run, phase=Phase.BRANCHES)
