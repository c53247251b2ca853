"""FinerCut (arXiv 2405.18218): again and again drop the attention or MLP whose absence changes the output least.

Change is the mean KL divergence, in nats a token, from the original's next-token distribution to that of the model as
cut so far less the candidate (the paper offers cosine and norm too). The order of drops therefore counts what the
earlier ones did to the later ones.

`branches` counts branches, and a step is the best of all single drops. `keep` counts weights, of which an attention has
few; there a step is the one that adds least for each number it frees, and of three ways to spend the budget the one
that diverges least is taken: all that a step frees counts, only what the budget still needs counts, and the ranking of
`llm_drop`. What the budget does not need in the end returns.

Cost: a candidate runs its block and what lies above it, on states kept for every block of the model as cut so far, and
only until it cannot be the best any more: no window diverges by less than nothing. The most promising of the last step
are run first. Of the original, log-probabilities [windows, tokens, vocabulary] are held, float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
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
from foldrank.plans.models.wide import wide
from foldrank.plans.models.words import Words
from foldrank.plans.shelf import Figures
from foldrank.progress import Progress

AT_ONCE = 2
"""Windows that a candidate is run on before it is asked whether it can still be the best."""


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
    """Sum over the tokens of KL(original || this) in nats, where the last block's output is this."""
    total = 0.0
    with torch.no_grad():
        for place, window in enumerate(hidden_NTC.split(1)):
            total += float(original[place : place + 1].divergence(decoder.logits(window)).sum(dtype=torch.float64))
    return total


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

    def divergence(self, original: Words, less: Cut, place: Place, windows: slice) -> float:
        """On some windows, of `less`, the model with one branch less; what lies below that is not run."""
        hidden = self.inputs[place.block][windows]
        with torch.no_grad():
            for block in less.decoder.blocks:
                if block.number >= place.block:
                    hidden = self.cut.source.run(block, hidden)
        return divergence(original[windows], self.cut.source, hidden)


@dataclass
class Greedy:
    """Choices of one run: by the divergence that a step leaves, or, with `freed`, by what it adds for each part of the
    weights that it frees. Divergences are means, in nats a token."""

    source: Decoder
    ids: np.ndarray
    original: Words
    figures: Figures
    progress: Progress
    freed: Callable[[Cut, Place], float] | None
    steps: dict[Place, float] = field(default_factory=dict)
    costs: dict[Place, float] = field(default_factory=dict)
    """What each would have cost when it was tried last, at least."""

    def divergence(self, cut: Cut) -> float:
        """Of a cut model, run whole."""
        if not cut.gone:
            return 0.0
        return self.figures.of(_key(cut), lambda: divergence(
            self.original, self.source, cut.decoder.forward(self.ids)) / self.ids.size)

    def next_one(self, cut: Cut, able: list[Place]) -> Place:
        """The one to drop next."""
        prefixes, now = Prefixes.of(cut, self.ids), self.divergence(cut)
        best, left, least = able[0], math.inf, (math.inf, 0)
        for place in sorted(able, key=lambda place: self.costs.get(place, 0.0)):
            freed = 1.0 if self.freed is None else self.freed(cut, place)
            found = self._at_least(prefixes, place, now + freed * least[0])
            cost = self.costs[place] = (found - now) / freed
            if (cost, -place.block) < least:
                best, left, least = place, found, (cost, -place.block)
        self.steps[best] = left
        return best

    def _at_least(self, prefixes: Prefixes, place: Place, most: float) -> float:
        """The divergence with one branch less; where that is more than `most`, something that is too."""
        less = prefixes.cut.without(place)
        key, total = _key(less), 0.0
        if key in self.figures.known:
            return self.figures.known[key]
        for start in range(0, len(self.ids), AT_ONCE):
            windows = slice(start, start + AT_ONCE)
            self.progress.advance("finercut")
            measure = partial(prefixes.divergence, self.original, less, place, windows)
            total += self.figures.of(f"{key} {start}", measure)
            if windows.stop < len(self.ids) and total / self.ids.size > most:
                return total / self.ids.size
        return self.figures.of(key, lambda: total / self.ids.size)

    def given_back(self, cut: Cut, spare: list[Place]) -> Place:
        """The one whose return leaves least."""
        best = min(spare, key=lambda place: (self.divergence(cut.giving_back(place)), place.block))
        del self.steps[best]
        return best


def _key(cut: Cut) -> str:
    return " ".join(sorted(map(str, cut.gone)))


def run(task: Task, settings: Settings) -> Result:
    """Drop them. Raises as `cut_down`."""
    ids, decoder, keep = settings.ids(task), wide(task.decoder), settings.keep
    wider = replace(task, decoder=decoder)
    original, figures = words(decoder, decoder.forward(ids)), Figures(task.shelf, "divergences")
    ways: list[Callable[[Cut, Place], float] | None] = [None]
    if keep is not None:
        ways = [lambda cut, place: cut.kept - cut.without(place).kept,
                lambda cut, place: cut.kept - max(keep, cut.without(place).kept)]
    task.progress.start("finercut", None)
    found: list[tuple[float, Cut, Mapping[Place, float]]] = []
    for freed in ways:
        greedy = Greedy(decoder, ids, original, figures, task.progress, freed)
        cut = cut_down(wider, settings, settings.which, "finercut", greedy.next_one, greedy.given_back)
        found.append((greedy.divergence(cut), cut, greedy.steps))
    if keep is not None:
        ranked, likeness = llm_drop.ranked(wider, settings, "finercut")
        found.append((greedy.divergence(ranked), ranked, likeness))
    task.progress.finish("finercut")
    least, cut, scores = min(found, key=itemgetter(0))
    return result(Cut(task.decoder, cut.gone), scores, {"finercut.kl_nats": least})


METHOD = Method("finercut", Settings, run, phase=Phase.BRANCHES)
