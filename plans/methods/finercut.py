"""FinerCut (arXiv 2405.18218): again and again drop the attention or MLP whose absence changes the output least.

Change is the mean KL divergence, in nats a token, from the original's next-token distribution to that of the model as
cut so far less the candidate (the paper offers cosine and norm too). The order of drops therefore counts what the
earlier ones did to the later ones. What `keep` does not need in the end returns, by the same measure.

Cost: a candidate runs its block and what lies above it, on states kept for every block of the model as cut so far. Of
the original, log-probabilities [windows, tokens, vocabulary] are held, float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as settings_dataclass
from torch import Tensor
from torch.nn import functional

from foldrank.edits.base import Phase
from foldrank.plans.depth import branches
from foldrank.plans.depth.branches import Cut, Place, cut_down, result
from foldrank.plans.method import Method, Result, Task
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.shelf import Figures


@settings_dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Settings(branches.Settings):
    """Of each of the first `windows` windows the first `tokens` tokens are used."""

    windows: Annotated[int, Field(ge=1)] = 8
    tokens: Annotated[int, Field(ge=2)] = 128


def log_probabilities(decoder: Decoder, hidden_NTC: Tensor) -> list[Tensor]:
    """Of the next token, by window [1, T, V], where the last block's output is this."""
    with torch.no_grad():
        return [functional.log_softmax(decoder.logits(window).float(), dim=-1) for window in hidden_NTC.split(1)]


def divergence(original: list[Tensor], decoder: Decoder, hidden_NTC: Tensor) -> float:
    """Mean KL(original || this) in nats a token, where the last block's output is this."""
    total, count = 0.0, 0
    with torch.no_grad():
        for wanted, window in zip(original, hidden_NTC.split(1), strict=True):
            found = functional.log_softmax(decoder.logits(window).float(), dim=-1)
            total += float((wanted.exp() * (wanted - found)).sum(dtype=torch.float64))
            count += window.shape[1]
    return total / count


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

    def divergence(self, original: list[Tensor], place: Place) -> float:
        """That of the model with one branch less."""
        return divergence(original, self.cut.source, self.without(place))


def run(task: Task, settings: Settings) -> Result:
    """Drop them. Raises as `cut_down`."""
    ids, decoder = settings.ids(task), task.decoder
    original = log_probabilities(decoder, decoder.forward(ids))
    figures = Figures(task.shelf, "divergences")
    scores: dict[Place, float] = {}
    last = 0.0

    def chosen(places: list[Place], tried: Callable[[Place], tuple[frozenset[Place], Callable[[], float]]]) -> Place:
        """The place that leaves the least divergence."""
        nonlocal last
        found: dict[Place, float] = {}
        for place in places:
            gone, measure = tried(place)
            found[place] = figures.of(" ".join(sorted(map(str, gone))), measure)
            task.progress.advance("finercut")
        best = min(found, key=lambda place: (found[place], -place.block))
        last = found[best]
        return best

    def least(cut: Cut, able: list[Place]) -> Place:
        prefixes = Prefixes.of(cut, ids)
        place = chosen(able, lambda p: (cut.gone | {p}, partial(prefixes.divergence, original, p)))
        scores[place] = last
        return place

    def back(cut: Cut, spare: list[Place]) -> Place:
        place = chosen(spare, lambda p: (cut.gone - {p}, partial(whole, cut.giving_back(p))))
        del scores[place]
        return place

    def whole(cut: Cut) -> float:
        return divergence(original, decoder, cut.decoder.forward(ids))

    task.progress.start("finercut", None)
    cut = cut_down(task, settings, settings.which, "finercut", least, back)
    task.progress.finish("finercut")
    return result(cut, scores, {"finercut.kl_nats": last})


METHOD = Method("finercut", Settings, run, phase=Phase.BRANCHES)
