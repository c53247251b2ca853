"""DipSVD's published search against the planner, whole: python -m foldrank.benchmarks.planning_search MODEL -o JSON

Naive is the procedure as published: 180 evaluations of one ratio a block, proposed by expected improvement, and for
each a deep copy of the model with a Cholesky factor and a full SVD of every linear. The planner is run twice: with the
same search over one decomposition, and with its default, the closed form, which needs no search. All three plans are
judged on held-out text. Seconds are of one run, one after the other.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from foldrank import strictjson
from foldrank.benchmarks.environment import environment
from foldrank.benchmarks.planning import timed
from foldrank.benchmarks.planning_ranks import grams, linears, loss, truncated
from foldrank.benchmarks.quality_judge import Judge, judge
from foldrank.disk.staging import write_atomically
from foldrank.model.checkpoint import Checkpoint
from foldrank.plans.calibration import calibration_windows, usable
from foldrank.plans.compose import parse_all, run_all
from foldrank.plans.low_rank import bayesian
from foldrank.plans.low_rank.allocation import rescaled
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.models.loading import load_model


def naive_plan(model: Any, ids_NT: np.ndarray, keep: float, *, evaluations: int, seed: int) -> Any:
    """The model at the best ratios of the search, every evaluation from scratch."""
    found, layers = grams(model, ids_NT), len(model.model.layers)

    def changed(ratios_L: np.ndarray) -> Any:
        copied = copy.deepcopy(model)
        with torch.no_grad():
            for name, linear in linears(copied):
                ratio = float(ratios_L[int(name.split(".")[0])])
                linear.weight.copy_(truncated(linear.weight.double(), found[name], ratio))
        return copied

    def evaluate(proposed: Sequence[float]) -> float:
        return loss(changed(rescaled(np.array(proposed), keep)), ids_NT[: bayesian.WINDOWS])

    return changed(bayesian.search(evaluate, layers, keep, trials=evaluations, seed=seed, known={}))


def compare(checkpoint: Checkpoint, keep: float, *, evaluations: int, seed: int = 0) -> dict[str, Any]:
    """Seconds and held-out figures of the naive search, the planner's search and the planner's default."""
    judged = judge(checkpoint, None)
    ids = usable(judged.decoder, calibration_windows(checkpoint, None, None, seed)).ids
    model = load_model(checkpoint, dtype=torch.float32)
    naive, naive_s = timed(lambda: naive_plan(model, ids, keep, evaluations=evaluations, seed=seed))
    found = {"naive": {"seconds": naive_s, **judged.figures(Decoder.of(naive))}}
    for name, settings in (("search", f",ratios=bayesian,evaluations={evaluations}"), ("default", "")):
        found[name] = _planned(judged, f"dipsvd:keep={keep}{settings}", ids, seed)
    return {
        "model": checkpoint.name, "keep": keep, "evaluations": evaluations, "tokens": int(ids.size), "seed": seed,
        "environment": environment(torch.get_num_threads()), **found,
        "naive_over_search": naive_s / found["search"]["seconds"],
        "naive_over_default": naive_s / found["default"]["seconds"],
    }


def _planned(judged: Judge, method: str, ids_NT: np.ndarray, seed: int) -> dict[str, Any]:
    runs, seconds = timed(lambda: run_all(judged.decoder, parse_all([method]), ids_NT, seed))
    return {"method": method, "seconds": seconds, **judged.figures(runs[-1].result.decoder)}


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.option("--keep", default=0.8)
@click.option("--evaluations", default=180)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
def main(model: Path, keep: float, evaluations: int, output: Path) -> None:
    """Run all three and write the comparison."""
    found = compare(Checkpoint.open(model), keep, evaluations=evaluations)
    write_atomically(output.absolute(), strictjson.dumps(found).encode())
    for name in ("naive", "search", "default"):
        entry = found[name]
        click.echo(f"{name}: {entry['seconds']:.1f} s, perplexity over dense {entry['perplexity_ratio']:.3f}")


if __name__ == "__main__":
    main()
