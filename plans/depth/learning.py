"""Coefficients of folds, learned by distillation.

aTLAS (arXiv 2407.02880) learns one coefficient for each part of each task vector. Here the vectors are the weights of
neighbouring blocks, a part is what reads one input of a block, and there are no labels: what falls is the mean
KL(dense || folded) over calibration text, from the coefficients that a rule gave. Some windows are held back; the state
that is best on them wins, and the start is one of those. So few numbers are trained that hundreds of tokens a step are
enough. The graph takes what any other coefficients take.

Axes: N windows, T tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from foldrank.edits.fold_blocks import INPUTS, FoldBlocks, Input
from foldrank.plans.models.block import Block, widened
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.models.words import Words
from foldrank.plans.simulate import apply_edits
from foldrank.plans.simulate.fold_blocks import role_of
from foldrank.progress import SILENT, Progress

STEPS, RATE = 64, 0.05
"""Of Adam; the rate falls to nothing along a half cosine."""

TOKENS = 512
"""Of a step, at least one window's."""

BACK = 0.25
"""Share of the windows that are held back, one at least."""

EVERY = 8
"""Steps between two measurements."""

Shares = dict[Input, Tensor]
"""Of one fold: by input, a coefficient for each of its blocks, ascending."""


@dataclass(frozen=True)
class Learned:
    """The folds with the best coefficients; `curve` holds (step, held-back KL in nats a token), step 0 first."""

    folds: tuple[FoldBlocks, ...]
    curve: tuple[tuple[int, float], ...]


def learned(
    decoder: Decoder, folds: Sequence[FoldBlocks], ids_NT: np.ndarray, *, seed: int = 0, progress: Progress = SILENT
) -> Learned:
    """Train the coefficients of folds of this model on windows of token ids [N, T]. Raises ValueError where there are
    fewer than two windows."""
    if len(ids_NT) < 2:
        raise ValueError(f"learning coefficients needs two windows or more, the text gives {len(ids_NT)}")
    back = max(1, round(BACK * len(ids_NT)))
    model = _Folded.of(decoder, folds)
    size = max(1, TOKENS // ids_NT.shape[1])
    text = ids_NT[:-back]
    random = np.random.default_rng(seed)
    order = np.concatenate([random.permutation(len(text)) for _ in range(-(-STEPS * size // len(text)))])
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    held = [(part, model.wanted(part)) for part in np.array_split(ids_NT[-back:], -(-back // size))]
    curve, best = [(0, model.measured(held))], model.folds()
    progress.start("coefficients", STEPS)
    for step in range(1, STEPS + 1):
        part = text[order[(step - 1) * size : step * size]]
        optimizer.zero_grad()
        with torch.enable_grad():
            model.loss(part, model.wanted(part)).backward()
        optimizer.step()
        falling.step()
        progress.advance("coefficients")
        if step % EVERY == 0:
            curve.append((step, model.measured(held)))
            best = model.folds() if curve[-1][1] <= min(loss for _, loss in curve) else best
    progress.finish("coefficients")
    return Learned(best, tuple(curve))


@dataclass(frozen=True)
class _Folded:
    """The dense model, folds of it, and their coefficients as parameters, by the block folded into."""

    decoder: Decoder
    starts: tuple[FoldBlocks, ...]
    shares: Mapping[int, Shares]
    kept: tuple[Block, ...]
    """The folded model's blocks; those that were folded with the coefficients of the start."""

    @classmethod
    def of(cls, decoder: Decoder, folds: Sequence[FoldBlocks]) -> _Folded:
        shares = {fold.into: {name: torch.tensor([*fold.of(roles[-1]).values()], device=decoder.device,
                                                 dtype=torch.float32, requires_grad=True)
                              for name, roles in INPUTS.items()} for fold in folds}
        return cls(decoder, tuple(folds), shares, tuple(apply_edits(folds, decoder, {}).blocks))

    def parameters(self) -> list[Tensor]:
        return [share for held in self.shares.values() for share in held.values()]

    def folds(self) -> tuple[FoldBlocks, ...]:
        """As a plan has them, with the coefficients as they are now."""
        return tuple(
            replace(fold, by_input={name: dict(zip(fold.blocks, share.tolist(), strict=True))
                                    for name, share in self.shares[fold.into].items()})
            for fold in self.starts)

    def wanted(self, ids_NT: np.ndarray) -> Words:
        """Of the dense model."""
        with torch.no_grad():
            return Words.of(self.decoder.logits(self.decoder.forward(ids_NT)))

    def measured(self, held: Sequence[tuple[np.ndarray, Words]]) -> float:
        """Mean KL over windows held back, in nats a token."""
        with torch.no_grad():
            return sum(float(self.loss(ids, wanted)) * ids.size for ids, wanted in held) / sum(
                ids.size for ids, _ in held)

    def loss(self, ids_NT: np.ndarray, wanted: Words) -> Tensor:
        """Mean KL(dense || folded) in nats a token."""
        hidden = self.decoder.embed(ids_NT).detach()
        for block in self.kept:
            hidden = self.decoder.run(self._made(block), hidden)
        return wanted.divergence(self.decoder.logits(hidden)).mean()

    def _made(self, block: Block) -> Block:
        """The block with weights made of the coefficients, where it is folded."""
        fold = next((fold for fold in self.starts if fold.into == block.number), None)
        if fold is None:
            return block
        parts = [self.decoder.block(number) for number in fold.blocks]
        tensors = dict(block.tensors)
        for name in tensors:
            if (role := role_of(block.family, name)) is not None:
                share = self.shares[fold.into][next(read for read, roles in INPUTS.items() if role in roles)]
                tensors[name] = sum((c * widened(part.tensors[name]) for c, part in zip(share, parts, strict=True)),
                                    start=torch.zeros((), device=share.device))
        return replace(block, tensors=tensors)
