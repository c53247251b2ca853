"""DipSVD's global importance, optimised: one ratio per block by Bayesian optimisation of a measured objective.

A Gaussian process with expected improvement proposes ratios in (0.25, 1), which are rescaled so that their mean is the
budget's; the first proposal is uniform. Evaluations slice one decomposition: no weight is decomposed twice. What was
evaluated lies on the shelf, so an interrupted search repeats at most one evaluation. Needs optuna (the extra `search`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch

from foldrank.errors import ProviderUnavailable
from foldrank.plans.depth.similarity import mean_cosine
from foldrank.plans.low_rank.allocation import rescaled
from foldrank.plans.low_rank.decomposing import Decomposed
from foldrank.plans.low_rank.factoring import replaced
from foldrank.plans.low_rank.ranks import Ranks
from foldrank.plans.method import Task
from foldrank.plans.models.losses import mean_loss
from foldrank.plans.shelf import Finding
from foldrank.progress import track

Objective = Literal["perplexity", "cosine"]

LOWEST, HIGHEST = 0.25, 1.0
WINDOWS = 8
"""Calibration windows an evaluation runs."""


def search(evaluate: Callable[[Sequence[float]], float], count: int, keep: float, *, trials: int, seed: int,
           known: Mapping[tuple[float, ...], float]) -> np.ndarray:
    """The ratios [count], mean `keep`, with the least value found. `known`: values by ratios as they were proposed.

    Raises ProviderUnavailable where optuna is not installed.
    """
    optuna = _optuna()
    names = [f"{number:03d}" for number in range(count)]
    best, least = np.full(count, keep), np.inf
    study = optuna.create_study(sampler=optuna.samplers.GPSampler(seed=seed))
    study.enqueue_trial(dict.fromkeys(names, min(max(keep, LOWEST), HIGHEST)))
    for _ in range(trials):
        trial = study.ask({name: optuna.distributions.FloatDistribution(LOWEST, HIGHEST) for name in names})
        proposed = tuple(trial.params[name] for name in names)
        wanted = rescaled(np.array(proposed), keep)
        value = known[proposed] if proposed in known else evaluate(proposed)
        study.tell(trial, value)
        if value < least:
            best, least = wanted, value
    return best


def optimised(
    task: Task, parts: Decomposed, ranks_of: Callable[[np.ndarray], Ranks], keep: float, *, objective: Objective,
    trials: int,
) -> np.ndarray:
    """Ratios by block of the least objective on the first windows. `ranks_of`: ranks for ratios, within the budget."""
    ids, shelf = task.ids[:WINDOWS], task.shelf.under(f"search {objective}")
    original = task.decoder.norm(task.decoder.forward(ids))
    held = shelf.get("evaluations")
    known = [] if held is None else list(held.values["known"])
    steps = iter(track(range(trials), "search", trials, task.progress))

    def evaluate(proposed: Sequence[float]) -> float:
        ranks = ranks_of(rescaled(np.array(proposed), keep))
        decoder = replaced(task.decoder, parts.pairs(ranks))
        with torch.no_grad():
            hidden = decoder.forward(ids)
            if objective == "cosine":
                value = -mean_cosine(original, decoder.norm(hidden))
            else:
                value = mean_loss(decoder, hidden, ids)
        known.append([list(proposed), value])
        shelf.put("evaluations", Finding(values={"known": known}))
        next(steps, None)
        return value

    return search(
        evaluate, len(task.decoder.blocks), keep, trials=trials, seed=task.seed,
        known={tuple(proposed): value for proposed, value in known},
    )


def check_installed() -> None:
    """Raises ProviderUnavailable where the search could not run: known before anything is computed."""
    _optuna()


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ProviderUnavailable("optuna", "is not installed", "pip install 'foldrank[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
