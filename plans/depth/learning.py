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

from foldrank.edits.fold_blocks import INPUTS, FoldBlocks, Input, read_by
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
    held = [model.dense(part) for part in np.array_split(ids_NT[-back:], -(-back // size))]
    curve, best = [(0, model.measured(held))], model.folds()
    progress.start("coefficients", STEPS)
    for step in range(1, STEPS + 1):
        part = model.dense(text[order[(step - 1) * size : step * size]])
        optimizer.zero_grad()
        with torch.enable_grad():
            model.loss(*part).backward()
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
    """The folded model's blocks from the lowest fold up; those that were folded with the coefficients of the start."""

    @classmethod
    def of(cls, decoder: Decoder, folds: Sequence[FoldBlocks]) -> _Folded:
        shares = {fold.into: {name: torch.tensor([*fold.of(roles[-1]).values()], device=decoder.device,
                                                 dtype=torch.float32, requires_grad=True)
                              for name, roles in INPUTS.items()} for fold in folds}
        lowest = _lowest(folds)
        kept = tuple(block for block in apply_edits(folds, decoder, {}).blocks if block.number >= lowest)
        return cls(decoder, tuple(folds), shares, kept)

    def parameters(self) -> list[Tensor]:
        return [share for held in self.shares.values() for share in held.values()]

    def folds(self) -> tuple[FoldBlocks, ...]:
        """As a plan has them, with the coefficients as they are now."""
        return tuple(
            replace(fold, by_input={name: dict(zip(fold.blocks, share.tolist(), strict=True))
                                    for name, share in self.shares[fold.into].items()})
            for fold in self.starts)

    def dense(self, ids_NT: np.ndarray) -> tuple[Tensor, Words]:
        """Of the dense model: what enters the lowest fold [N, T, C], up to where both are the same; and its words."""
        lowest = _lowest(self.starts)
        with torch.no_grad():
            hidden = entering = self.decoder.embed(ids_NT)
            for block in self.decoder.blocks:
                entering = hidden if block.number == lowest else entering
                hidden = self.decoder.run(block, hidden)
            return entering, Words.of(self.decoder.logits(hidden))

    def measured(self, held: Sequence[tuple[Tensor, Words]]) -> float:
        """Mean KL over windows held back, in nats a token."""
        with torch.no_grad():
            return sum(float(self.loss(entering, wanted)) * len(wanted) for entering, wanted in held) / sum(
                len(wanted) for _, wanted in held)

    def loss(self, entering_NTC: Tensor, wanted: Words) -> Tensor:
        """Mean KL(dense || folded) in nats a token."""
        hidden = entering_NTC
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
                share = self.shares[fold.into][read_by(role)]
                tensors[name] = sum((c * widened(part.tensors[name]) for c, part in zip(share, parts, strict=True)),
                                    start=torch.zeros((), device=share.device))
        return replace(block, tensors=tensors)


def _lowest(folds: Sequence[FoldBlocks]) -> int:
    """Block below which folds leave everything as it was."""
    return min(fold.blocks[0] for fold in folds)
