"""Pairs in the place of the head and the table of words: T [C, V] ~ A [C, R] B [R, V], T as a head holds it.

Of all pairs of a rank the one found leaves least of tr(M (T - A B) D (T - A B)^T): M [C, C] weighs channels, D, a
diagonal, words. With M = S S^T and U the first R eigenvectors of S^T T D T^T S it is A B = T D T^T S U L^-1 U^T S^T T,
L their eigenvalues, and what is left is the sum of the others: all but two products are [C, C], none [V, V].

    head        M = sum x^T x of what it reads: the error is that of the logits; words count as the model expects them
    embedding   M = I; words count as often as the text has them, once more
    both        M and D are means of the two: of their sum no closed form is known

With words alike the head's pair is AFM's for second moments: U of the covariance W^T M W, without a bias.
Axes: C channels, V words, R rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from foldrank.digests import WeightDigest
from foldrank.edits.base import EMBEDDING, HEAD
from foldrank.edits.low_rank_table import LowRankTable
from foldrank.plans.low_rank.grams import gram
from foldrank.plans.low_rank.truncation import signed
from foldrank.plans.low_rank.whitening import Metric
from foldrank.plans.method import Result
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.simulate import apply_edits

Of = Literal["embedding", "head", "both"]

DAMPING = 1e-9
"""Added to M, of its mean eigenvalue: channels that the text does not move are seen by that alone, and last."""


@dataclass(frozen=True)
class Seen:
    """Of a text: the head's Gram matrix sum x^T x [C, C], and how often each word is expected and is there [V]; sums
    over tokens, float64."""

    gram: Tensor
    expected: Tensor
    counts: Tensor


def factored(
    decoder: Decoder, ids_NT: np.ndarray, ranks: Mapping[Of, int], name: str, *, likely: bool = True
) -> Result:
    """The model with pairs of these ranks in the place of its tables; `likely`: words are weighed, otherwise all alike.
    `predicted`, under the method's name: what is left over what nothing would leave. Runs the text once where a head is
    replaced."""
    edits, arrays, predicted = list[LowRankTable](), dict[str, np.ndarray](), dict[str, float | int]()
    seen = _seen(decoder, ids_NT, whole=bool({HEAD, "both"} & ranks.keys()))
    for of, rank in ranks.items():
        table_CV = decoder.table if of == EMBEDDING else decoder.head
        a, b, losses = table_pair(table_CV, *_weights(of, seen, likely=likely), rank)
        names = f"{of}.A", f"{of}.B"
        digest = WeightDigest.of(np.ascontiguousarray(table_CV.cpu().numpy()))
        edits.append(LowRankTable(of, (len(a), b.shape[1]), rank, names, digest))
        arrays |= {names[0]: a.cpu().numpy(), names[1]: b.cpu().numpy()}
        predicted[f"{name}.{of}_relative_loss"] = float(losses[rank] / losses[0])
    return Result(apply_edits(edits, decoder, arrays), tuple(edits), 1.0, arrays, predicted)


def table_pair(table_CV: Tensor, metric_CC: Tensor, words_V: Tensor, rank: int) -> tuple[Tensor, Tensor, np.ndarray]:
    """A [C, R] and B [R, V], float32, and what is left at each rank [C + 1]. Words weigh more than 0. Where they are
    alike, B has orthonormal rows. Cost: one symmetric eigenproblem [C, C] and products with T, in float64."""
    table = table_CV.to(torch.float64)
    damped = metric_CC + DAMPING * metric_CC.diagonal().mean() * torch.eye(len(table)).to(metric_CC)
    root, weighed = Metric(damped).root, (table * words_V) @ table.T
    values, vectors = torch.linalg.eigh(root.T @ weighed @ root)
    values, vectors = values.flip(0).clamp_min(0.0), signed(vectors.flip(1))
    known = values > values[0] * len(values) * torch.finfo(values.dtype).eps
    scales = torch.where(known, values, torch.inf).rsqrt()[:rank]
    basis = vectors[:, :rank] * scales
    a, b = weighed @ (root @ basis), (root @ basis).T @ table
    left = np.concatenate([values.cpu().numpy()[::-1].cumsum()[::-1], [0.0]])
    return a.to(torch.float32).contiguous(), b.to(torch.float32).contiguous(), left


def _weights(of: Of, seen: Seen, *, likely: bool) -> tuple[Tensor, Tensor]:
    """M and D of what is replaced, each as its mean is 1."""
    words, channels = len(seen.counts), torch.eye(len(seen.gram)).to(seen.gram)
    smoothed, alike = (seen.counts + 1) / (seen.counts.sum() + words), torch.ones_like(seen.counts) / words
    read = seen.gram / seen.gram.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny)
    by_end = {EMBEDDING: (channels, smoothed), HEAD: (read, seen.expected / seen.expected.sum().clamp_min(1e-300))}
    ends = list(by_end.values()) if of == "both" else [by_end[of]]
    metric = sum((m for m, _ in ends), torch.zeros_like(channels)) / len(ends)
    weights = sum((w for _, w in ends), torch.zeros_like(alike)) / len(ends)
    return metric, (weights if likely else alike) * words


def _seen(decoder: Decoder, ids_NT: np.ndarray, *, whole: bool) -> Seen:
    """`whole`: what the head reads and expects too, a window at a time."""
    ids = torch.from_numpy(ids_NT).flatten().to(decoder.device)
    counts = torch.bincount(ids, minlength=decoder.vocabulary).to(torch.float64)
    channels = len(decoder.head)
    total = torch.zeros(channels, channels, dtype=torch.float64, device=decoder.device)
    expected = torch.zeros_like(counts)
    with torch.no_grad():
        for hidden in decoder.forward(ids_NT).split(1) if whole else ():
            total += gram(decoder.norm(hidden))
            expected += decoder.logits(hidden)[0].double().softmax(-1).sum(0)
    return Seen(total, expected, counts)
