"""Low-rank planning against the naive procedure: same losses, how much less time. Prints one JSON object.

    python -m foldrank.benchmarks.planning_ranks examples/specs-5m --candidates 8

Both judge the same candidates, a uniform ratio each, by the loss on the calibration text. Naive: a Gram matrix for each
of the seven linears of a block, and for every candidate a deep copy of the model, a Cholesky factor and a full SVD of
every linear. The planner: four Gram matrices, one decomposition for all candidates, no copy.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foldrank.benchmarks.environment import environment
from foldrank.model.checkpoint import Checkpoint
from foldrank.plans.calibration import calibration_windows, usable
from foldrank.plans.low_rank.decomposing import by_input, decompose
from foldrank.plans.low_rank.factoring import replaced
from foldrank.plans.low_rank.ranks import from_ratios
from foldrank.plans.low_rank.whitening import Metric
from foldrank.plans.method import Task
from foldrank.plans.models.decoder import Decoder, load_decoder
from foldrank.plans.models.loading import load_model
from foldrank.plans.models.losses import mean_loss

DAMPING = 1e-10
"""Added to the diagonal of a Gram matrix, as a share of its mean: a Cholesky factor needs full rank."""


def naive_losses(model: Any, ids_NT: np.ndarray, keeps: list[float]) -> list[float]:
    """Mean next-token loss of each candidate, the published way."""
    sums, found = grams(model, ids_NT), []
    for keep in keeps:
        changed = copy.deepcopy(model)
        with torch.no_grad():
            for name, linear in linears(changed):
                linear.weight.copy_(truncated(linear.weight.double(), sums[name], keep))
        found.append(loss(changed, ids_NT))
    return found


def planned_losses(decoder: Decoder, ids_NT: np.ndarray, keeps: list[float]) -> list[float]:
    """The same, on the planner's machinery."""
    parts, found = decompose(Task(decoder, ids_NT, 0, source=decoder), by_input(Metric), "split"), []
    for keep in keeps:
        ranks = from_ratios(parts.candidates, {block.number: keep for block in decoder.blocks}, 1)
        small = replaced(decoder, parts.pairs(ranks))
        found.append(mean_loss(small, small.forward(ids_NT), ids_NT))
    return found


def compare(checkpoint: Checkpoint, candidates: int, *, tokens: int = 4096, seed: int = 0) -> dict[str, Any]:
    """Losses of both and the ratio of their times, in one run."""
    model, decoder = load_model(checkpoint, dtype=torch.float32), load_decoder(checkpoint)
    ids = usable(decoder, calibration_windows(checkpoint, None, tokens, seed)).ids
    keeps = np.linspace(0.5, 0.95, candidates).round(4).tolist()
    started = time.perf_counter()
    slow = naive_losses(model, ids, keeps)
    between = time.perf_counter()
    fast = planned_losses(decoder, ids, keeps)
    slow_s, fast_s = between - started, time.perf_counter() - between
    return {
        "model": checkpoint.name, "tokens": int(ids.size), "keeps": keeps,
        "environment": environment(torch.get_num_threads()), "naive_losses": slow, "planner_losses": fast,
        "largest_difference_nats": float(np.abs(np.subtract(slow, fast)).max()),
        "naive_s": slow_s, "planner_s": fast_s, "ratio": slow_s / fast_s,
    }


def linears(model: Any) -> Iterator[tuple[str, nn.Linear]]:
    """Every linear of the blocks, by name from the block's number on."""
    return ((name, m) for name, m in model.model.layers.named_modules() if isinstance(m, nn.Linear))


def grams(model: Any, ids_NT: np.ndarray) -> dict[str, Tensor]:
    """Gram matrix of every linear's input, each on its own."""
    sums: dict[str, Tensor] = {}

    def add(name: str, inputs: Tensor) -> None:
        rows = inputs.flatten(0, -2).double()
        sums[name] = sums.get(name, torch.zeros(())) + rows.T @ rows

    handles = [
        linear.register_forward_pre_hook(lambda _m, a, name=name: add(name, a[0])) for name, linear in linears(model)
    ]
    with torch.no_grad():
        for row in torch.from_numpy(ids_NT):
            model(input_ids=row[None], use_cache=False)
    for handle in handles:
        handle.remove()
    return sums


def truncated(weight_OI: Tensor, gram_II: Tensor, keep: float) -> Tensor:
    """The best W [out, in] of the rank that keeps so much of its numbers, by Cholesky and full SVD; float64."""
    rank = int(weight_OI.numel() * keep / sum(weight_OI.shape))
    damping = DAMPING * gram_II.diagonal().mean() * torch.eye(len(gram_II), dtype=gram_II.dtype)
    lower = torch.linalg.cholesky(gram_II + damping)
    left, values, right = torch.linalg.svd(weight_OI @ lower, full_matrices=False)
    whitened = (left[:, :rank] * values[:rank]) @ right[:rank]
    return torch.linalg.solve_triangular(lower, whitened, upper=False, left=False)


def loss(model: Any, ids_NT: np.ndarray) -> float:
    """Mean next-token loss over the windows."""
    with torch.no_grad():
        losses = [float(model(input_ids=row[None], labels=row[None], use_cache=False).loss)
                  for row in torch.from_numpy(ids_NT)]
    return float(np.mean(losses))


def main() -> None:
    """Read the arguments, print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=4096)
    arguments = parser.parse_args()
    result = compare(Checkpoint.open(arguments.model), arguments.candidates, tokens=arguments.tokens)
    print(json.dumps(result, indent=2, sort_keys=True))


if __name__ == "__main__":
    main()
