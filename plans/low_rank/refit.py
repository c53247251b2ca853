"""Pairs fitted to what a site really reads once the blocks below it are compressed, block by block from the bottom.

With x a site's input in the original model and z in the compressed one, both over all tokens, H = z^T z and C = z^T x:
    sequential      W is truncated under H instead of x^T x                              (SVD-LLM's sequential update)
    feed_forward    what is truncated under H is W + beta H^-1 (C - H) W: part of the error that arrives is undone;
                    the best pair of a rank for |z A B - (z + beta (x - z)) W|^2          (as SAES-SVD)
    refit           A stays, B = (A^T H A)^-1 A^T C W, the least squares solution of z A B = x W
Inverses leave out directions in which z has next to nothing. Cost: five passes of a block instead of one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from foldrank.plans.low_rank.factoring import sites_of, stacked, with_pairs
from foldrank.plans.low_rank.grams import input_of, watched
from foldrank.plans.low_rank.truncation import truncations
from foldrank.plans.low_rank.whitening import Metric
from foldrank.plans.method import Task
from foldrank.plans.models.block import Block, Pair, watch_inputs
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.shelf import Finding, States, walk
from foldrank.sites import Site

MetricOf = Callable[[Tensor], Metric]
"""From a Gram matrix [I, I] to the metric W is truncated under."""

UNSEEN = 1e-9
"""Share of the largest eigenvalue below which a direction counts as not seen."""


@dataclass(frozen=True)
class Fit:
    """What to do: see the module's text. `beta` 0 feeds nothing forward."""

    sequential: bool
    beta: float
    refit: bool

    @property
    def needed(self) -> bool:
        """Whether pairs do not stay as the original inputs made them."""
        return self.sequential or self.refit


@dataclass(frozen=True)
class Moments:
    """H = z^T z and C = z^T x [I, I], float64, over all tokens."""

    inputs: Tensor
    cross: Tensor


def fit(weight_IO: Tensor, moments: Moments, start: Pair, how: Fit, metric: MetricOf = Metric) -> Pair:
    """The pair of one site, of the rank of `start`, which is kept where W is not truncated anew."""
    weight = weight_IO.to(torch.float64)
    a, b = start.a.to(weight), start.b.to(weight)
    if how.sequential:
        target = weight
        if how.beta:
            missing = (moments.cross - moments.inputs) @ weight
            target = weight + how.beta * _solved(moments.inputs, missing)
        a, b = (factor.to(weight) for factor in truncations(target, metric(moments.inputs)).pair(a.shape[1]))
    if how.refit:
        b = _solved(a.T @ moments.inputs @ a, a.T @ moments.cross @ weight)
    return Pair(a.to(torch.float32), b.to(torch.float32).contiguous())


def fitted(
    task: Task, starts: Mapping[Site, Pair], packed: str, how: Fit, metric: MetricOf = Metric
) -> dict[Site, Pair]:
    """The pair of every site that has one, each fitted with all pairs below it in place, its rank unchanged."""
    decoder = task.decoder

    def step(block: Block, states: States) -> tuple[Finding, States]:
        pairs, after = _block(decoder, block, states, starts, packed, how, metric)
        factors = {f"{site.role}.A": pair.a for site, pair in pairs.items()}
        factors |= {f"{site.role}.B": pair.b for site, pair in pairs.items()}
        original, compressed = decoder.run(block, states["original"]), decoder.run(after, states["compressed"])
        return Finding(factors), {"original": original, "compressed": compressed}

    def start() -> States:
        hidden = decoder.embed(task.ids)
        return {"original": hidden, "compressed": hidden}

    ranks = sorted((str(site), pair.a.shape[1]) for site, pair in starts.items())
    with torch.no_grad():
        findings = walk(
            decoder.blocks, task.shelf.under(f"fit {how} {ranks}"), start, step, stage="fit", device=decoder.device,
            progress=task.progress,
        )
    held = {site: findings[site.block].tensors for site in starts}
    return {site: Pair(tensors[f"{site.role}.A"], tensors[f"{site.role}.B"]) for site, tensors in held.items()}


def _block(
    decoder: Decoder, block: Block, states: States, starts: Mapping[Site, Pair], packed: str, how: Fit,
    metric: MetricOf,
) -> tuple[dict[Site, Pair], Block]:
    """Fit input by input, in the order the block applies them: each sees the pairs before it."""
    originals = _inputs(decoder, block, states["original"], watched(block))
    pairs: dict[Site, Pair] = {}
    after = block
    for role in watched(block):
        reading = [s for s in sites_of(block, packed) if input_of(block, s.roles[0]) == role and s in starts]
        if not reading:
            continue
        seen = _inputs(decoder, after, states["compressed"], (role,))[role].to(torch.float64)
        moments = Moments(seen.T @ seen, seen.T @ originals[role].to(torch.float64))
        for site in reading:
            pairs[site] = fit(stacked(block, site), moments, starts[site], how, metric)
        after = with_pairs(block, pairs)
    return pairs, after


def _inputs(decoder: Decoder, block: Block, hidden_NTC: Tensor, roles: tuple[str, ...]) -> Mapping[str, Tensor]:
    """Inputs [tokens, I] of some linears, by role."""
    seen: dict[str, list[Tensor]] = {role: [] for role in roles}
    with watch_inputs(block, lambda role, x: seen[role].append(x.flatten(0, -2)), roles):
        decoder.run(block, hidden_NTC)
    return {role: torch.cat(parts) for role, parts in seen.items()}


def _solved(symmetric_II: Tensor, right_IO: Tensor) -> Tensor:
    """X with symmetric @ X = right, least squares, without the directions that are next to nothing."""
    values, vectors = torch.linalg.eigh(symmetric_II)
    kept = values > UNSEEN * values[-1].clamp_min(0.0)
    return (vectors[:, kept] / values[kept]) @ (vectors[:, kept].T @ right_IO)
