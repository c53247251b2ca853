"""What every method costs in quality, at every size: python -m foldrank.benchmarks.quality MODEL... -o quality.json

One cell is a model, a method, a keep and a calibration seed. Cells that the file already has are not run again, so the
table can be made in pieces. Plans are judged in memory, as the planner's own decoder runs them (the graph proof shows
that graphs compute the same): perplexity over dense, KL(dense || compressed) in nats and top-1 agreement on held-out
text, with the share of the block weights really kept and the seconds that planning took. A method that cannot reach a
keep is written down with its reason. Whatever the outcome, it is printed as it is.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch

from foldrank.benchmarks.environment import environment
from foldrank.benchmarks.quality_cells import KEEPS, SEEDS, Cell, cells, keep_plan, load, save
from foldrank.benchmarks.quality_judge import TOKENS, Judge, judge
from foldrank.benchmarks.quality_recovered import Recoveries
from foldrank.model.checkpoint import Checkpoint
from foldrank.plans.calibration import calibration_windows, usable
from foldrank.plans.compose import parse_all, plan_of, run_all
from foldrank.plans.training.adapters import RATES


def device_name(device: str) -> str:
    """What a PyTorch device is: the card's name, or the device's own."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def run_cell(
    cell: Cell, checkpoint: Checkpoint, dense: Judge, recoveries: Recoveries | None = None, plans: Path | None = None,
) -> dict[str, Any]:
    """Plan, judge, and where the cell says so train and judge again; `refused` where the method cannot reach that
    keep. What was there before recovery stands beside it. The untrained plan is kept in the folder `plans`."""
    windows = usable(dense.decoder, calibration_windows(checkpoint, None, None, cell.seed))
    start = time.perf_counter()
    try:
        runs = run_all(dense.decoder, parse_all([cell.request]), windows.ids, cell.seed)
    except ValueError as error:
        return {**asdict(cell), "refused": str(error)}
    seconds = time.perf_counter() - start
    result = runs[-1].result
    found = {**dense.figures(result.decoder), "kept": result.kept, "planning_s": seconds}
    if plans is None and recoveries is None:
        return {**asdict(cell), **found}
    plan = plan_of(checkpoint, dense.decoder, windows, runs)
    if plans is not None:
        keep_plan(plan, cell, plans)
    if cell.recover is None or recoveries is None:
        return {**asdict(cell), **found}
    return {**asdict(cell), **found, "before": found, **recoveries.figures(cell, plan)}


@click.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
@click.option("--method", "methods", multiple=True, required=True, help="As --method of plan, without keep.")
@click.option("--keep", "keeps", multiple=True, type=float, default=KEEPS)
@click.option("--seed", "seeds", multiple=True, type=int, default=SEEDS)
@click.option("--text", type=click.Path(path_type=Path, exists=True), help="Held-out text; default: the installed one.")
@click.option("--device", default="cpu", help="Where plans are made and judged: cpu or cuda.")
@click.option("--recover", type=click.Choice(list(RATES)), help="Cells after recovery, not before.")
@click.option("--recover-text", type=click.Path(path_type=Path, exists=True), help="Default: the calibration text.")
@click.option("--recover-tokens", type=int, default=262_144)
@click.option("--recover-steps", type=int, default=300)
@click.option("--plans", type=click.Path(path_type=Path), help="Keep plans there, for quality_decode.")
def main(
    models: tuple[Path, ...], output: Path, methods: tuple[str, ...], keeps: tuple[float, ...], seeds: tuple[int, ...],
    text: Path | None, device: str, recover: str | None, recover_text: Path | None, recover_tokens: int,
    recover_steps: int, plans: Path | None,
) -> None:
    """Run the cells that are missing, one after the other, saving after each."""
    found = load(output)
    here = environment(torch.get_num_threads())
    where = {"cpu": here["cpu_model"], "threads": here["threads"], "device": device_name(device)}
    found["environment"] = here
    found["held_out"] = {"text": text.name if text else "validation.jsonl", "tokens": TOKENS}
    opened = {path.name: Checkpoint.open(path) for path in models}
    recoveries: dict[str, Recoveries] = {}
    for cell in cells(list(opened), methods, keeps, seeds, recover):
        if cell.key in found["cells"]:
            continue
        checkpoint = opened[cell.model]
        if cell.model not in recoveries:
            dense = judge(checkpoint, text, device)
            recoveries[cell.model] = Recoveries(checkpoint, dense, recover_text, recover_tokens, recover_steps)
            found.setdefault("dense", {})[cell.model] = {"perplexity": dense.perplexity, "window": dense.ids.shape[1]}
        figures = run_cell(cell, checkpoint, recoveries[cell.model].dense, recoveries[cell.model], plans)
        found["cells"][cell.key] = {**figures, "where": where}
        save(output, found)
        click.echo(f"{cell.key}: {found['cells'][cell.key].get('perplexity_ratio', 'refused')}", err=True)


if __name__ == "__main__":
    main()
