"""SLM's planning against the naive procedure: same decisions, how much less time. Prints one JSON object.

    python -m foldrank.benchmarks.planning examples/specs-5m --keep 0.75

Naive is the procedure as published: for every candidate a deep copy of the model, merged in place, and the original and
the candidate both run in full. It shares the window loop with the planner and nothing else: no decoder view, no prefix
cache, no memory of similarities it has seen.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from foldrank.benchmarks.environment import environment
from foldrank.model.checkpoint import Checkpoint
from foldrank.plans.calibration import calibration_windows
from foldrank.plans.depth.prefix import AT_ONCE, Bounding
from foldrank.plans.depth.windows import Search, Window, merge_windows, search_threshold
from foldrank.plans.methods.slm import Rule, Settings, prefix_cache
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.models.loading import load_model
from foldrank.plans.shelf import Figures, MemoryShelf

T = TypeVar("T")


Measure = Callable[[tuple[Window, ...], Window], float]


@dataclass
class Counted:
    """A similarity, always measured to its end, that counts how often it is asked."""

    measure: Measure
    asked: int = 0

    def __call__(self, committed: tuple[Window, ...], candidate: Window, _above: float, /) -> float:
        self.asked += 1
        return self.measure(committed, candidate)


@dataclass
class Parts:
    """Counts how often some samples of a candidate are run."""

    run: int = 0

    def advance(self) -> None:
        """Once more."""
        self.run += 1


def naive_similarity(model: Any, ids_NT: np.ndarray, rule: Rule, norms: str) -> Measure:
    """Deep copy, merge in place, run both models in full, cosine of the flattened last hidden states."""
    ids = torch.from_numpy(ids_NT)

    def measure(committed: tuple[Window, ...], candidate: Window) -> float:
        changed = copy.deepcopy(model)
        for low, high in sorted((*committed, candidate), reverse=True):
            _merge_in_place(changed, low, high, rule, norms)
        with torch.no_grad():
            one = model.model(input_ids=ids, use_cache=False).last_hidden_state.double().flatten(1)
            other = changed.model(input_ids=ids, use_cache=False).last_hidden_state.double().flatten(1)
        return float(nn.functional.cosine_similarity(one, other, dim=1).mean())

    return measure


def _merge_in_place(model: Any, low: int, high: int, rule: Rule, norms: str) -> None:
    layers = list(model.model.layers)
    window = [dict(layer.named_parameters()) for layer in layers[low : high + 1]]
    with torch.no_grad():
        for name, parameter in layers[low].named_parameters():
            if "norm" in name:
                merged = window[-1 if norms == "top" else 0][name].clone()
            else:
                merged = _merged([tensors[name].double() for tensors in window], rule)
            parameter.copy_(merged)
    model.model.layers = nn.ModuleList(layers[: low + 1] + layers[high + 1 :])
    model.config.num_hidden_layers = len(model.model.layers)


def _merged(weights: list[Tensor], rule: Rule) -> Tensor:
    first, last = weights[0], weights[-1]
    match rule:
        case "top" | "learned":
            return last
        case "bottom":
            return first
        case "mean":
            return torch.stack(weights).mean(dim=0)
        case "rdsc":
            return first + torch.stack([w - first for w in weights[1:]]).sum(dim=0)


def compare(checkpoint: Checkpoint, keep: float, *, seed: int = 0) -> dict[str, Any]:
    """Search for `keep` naively and as the planner does; then one pass of the loop at the threshold found."""
    settings = Settings(keep=keep)
    model = load_model(checkpoint, dtype=torch.float32)
    ids = calibration_windows(checkpoint, None, None, seed).ids[: settings.windows, : settings.tokens]
    blocks = len(model.model.layers)
    bounds = settings.bounds(blocks)
    target = int(keep * blocks + 1e-9)

    def bounding(parts: Parts) -> Bounding:
        """With a prefix cache of its own, so that its cost is inside the measured time."""
        cache = prefix_cache(Decoder.of(model), ids, settings)
        return Bounding(cache, Figures(MemoryShelf(), "similarities"), parts.advance)

    naive, ours = Counted(naive_similarity(model, ids, settings.rule, settings.norms)), Parts()
    slow, slow_s = timed(lambda: search_threshold(naive, bounds, blocks=blocks, target=target))
    naive_runs = naive.asked
    fast, fast_s = timed(lambda: search_threshold(bounding(ours), bounds, blocks=blocks, target=target))
    loop_slow = timed(lambda: merge_windows(naive, bounds, threshold=slow.threshold))[1]
    loop_fast = timed(lambda: merge_windows(bounding(Parts()), bounds, threshold=fast.threshold))[1]
    return {
        "model": checkpoint.name, "keep": keep, "tokens": int(ids.size),
        "environment": environment(torch.get_num_threads()),
        "windows": [list(w) for w in _windows(fast)], "identical_decisions": _decisions(slow) == _decisions(fast),
        "search": {"naive_s": slow_s, "planner_s": fast_s, "ratio": slow_s / fast_s,
                   "naive_evaluations": naive_runs, "planner_evaluations": ours.run * AT_ONCE / len(ids)},
        "one_threshold": {"naive_s": loop_slow, "planner_s": loop_fast, "ratio": loop_slow / loop_fast},
    }


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What the work gives, and the seconds it took."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def _windows(found: Search) -> tuple[Window, ...]:
    return () if found.outcome is None else found.outcome.windows


def _decisions(found: Search) -> list[tuple[Window, bool]]:
    return [] if found.outcome is None else [(t.window, t.accepted) for t in found.outcome.trials]


def main() -> None:
    """Read the arguments, print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--keep", type=float, default=0.75)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    result = compare(Checkpoint.open(arguments.model), arguments.keep, seed=arguments.seed)
    print(json.dumps(result, indent=2, sort_keys=True))


if __name__ == "__main__":
    main()
