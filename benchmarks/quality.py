"""What every method costs in quality, at every size: python -m foldrank.benchmarks.quality MODEL... -o quality.json

One cell is a model, a method, a keep and a calibration seed. Cells that the file already has are not run again, so the
table can be made in pieces. Plans are judged in memory, as the planner's own decoder runs them (the graph proof shows
that graphs compute the same): perplexity over dense, KL(dense || compressed) in nats and top-1 agreement on held-out
text, with the share of the block weights really kept and the seconds that planning took. A method that cannot reach a
keep is written down with its reason. Whatever the outcome, it is printed as it is.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from foldrank.benchmarks.environment import environment
from foldrank.checkpoint import Checkpoint
from foldrank.digests import sha256_array
from foldrank.planfile import Plan
from foldrank.plans.compose import calibration_windows, parse_all, plan_of, run_all, usable
from foldrank.plans.models.decoder import Decoder, load_decoder
from foldrank.plans.texts import cut_windows, load_tokenizer, read_text
from foldrank.plans.training.recovering import Recovery, recovery_windows
from foldrank.plans.training.recovery import Training, recover
from foldrank.plans.training.stored import Stored
from foldrank.plans.training.teacher import Teacher

KEEPS = (0.95, 0.9, 0.8, 0.65, 0.5)
SEEDS = (0, 1, 2)
TOKENS, WINDOW = 20_480, 512
"""Held-out tokens, in windows that do not overlap: of WINDOW tokens, or fewer where the model cannot use so many."""


TEACHER_ROOM = 1 << 30
"""Numbers that the dense model's answers to training windows may take: 4 GiB."""


@dataclass(frozen=True)
class Cell:
    """One entry of the table; `method` is what `--method` is given, but for keep."""

    model: str
    method: str
    keep: float
    seed: int
    recover: str | None = None

    @property
    def key(self) -> str:
        """Its name in the file."""
        trained = "" if self.recover is None else f" recover={self.recover}"
        return f"{self.model} {self.method} keep={self.keep} seed={self.seed}{trained}"

    @property
    def request(self) -> str:
        """As `--method` reads it."""
        return f"{self.method}{',' if ':' in self.method else ':'}keep={self.keep}"


@dataclass(frozen=True)
class Asked:
    """How recovery trains: on so many tokens drawn from a text (None: the calibration text), for so many steps."""

    text: Path | None
    tokens: int
    steps: int


@dataclass(frozen=True)
class Judge:
    """The dense model and what it says of held-out windows [N, T]. `trained`: what recovery made of plans."""

    decoder: Decoder
    ids: np.ndarray
    trained: dict[tuple[Any, ...], dict[str, Any]] = field(default_factory=dict)

    @cached_property
    def dense(self) -> list[Tensor]:
        """Log probabilities [T - 1, V] of the dense model for every window."""
        return [_logs(self.decoder, row[None]) for row in self.ids]

    @property
    def perplexity(self) -> float:
        """Of the dense model."""
        nats = -sum(float(logs.gather(-1, _targets(row, logs)).sum())
                    for row, logs in zip(self.ids, self.dense, strict=True))
        return math.exp(nats / (self.ids.size - len(self.ids)))

    @cached_property
    def teacher(self) -> Teacher:
        """What recovery learns from: all cells of a seed train on the same windows."""
        return Teacher(self.decoder, room=TEACHER_ROOM)

    def figures(self, small: Decoder) -> dict[str, float]:
        """Perplexity over dense, KL in nats, top-1 agreement of a compressed model."""
        sums = np.zeros(3)
        for row, dense in zip(self.ids, self.dense, strict=True):
            small_logs = _logs(small, row[None])
            sums += [
                float((dense - small_logs).gather(-1, _targets(row, dense)).sum()),
                float((dense.exp() * (dense - small_logs)).sum()),
                float((dense.argmax(-1) == small_logs.argmax(-1)).sum()),
            ]
        nats, kl, same = sums / (self.ids.size - len(self.ids))
        return {"perplexity_ratio": math.exp(nats), "kl_nats": max(0.0, kl), "top1_agreement": same}


def device_name(device: str) -> str:
    """What a PyTorch device is: the card's name, or the device's own."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def _targets(row_T: np.ndarray, logs: Tensor) -> Tensor:
    return torch.from_numpy(row_T[1:, None]).to(logs.device)


def cells(
    models: Sequence[str], methods: Sequence[str], keeps: Sequence[float], seeds: Sequence[int],
    recover: str | None = None,
) -> Iterator[Cell]:
    """Every cell, seeds outermost: a table cut short still has every method."""
    for seed in seeds:
        for model in models:
            for keep in keeps:
                for method in methods:
                    yield Cell(model, method, keep, seed, recover)


def judge(checkpoint: Checkpoint, text: Path | None, device: str = "cpu") -> Judge:
    """The first TOKENS tokens of a held-out text, default the installed one, in windows the model can use."""
    tokenizer = load_tokenizer(checkpoint.path)
    windows = cut_windows(
        read_text(text, "validation"), tokenizer, window=WINDOW, windows=TOKENS // WINDOW, seed=None
    )
    decoder = load_decoder(checkpoint, device=device)
    return Judge(decoder, usable(decoder, windows).ids)


def run_cell(cell: Cell, checkpoint: Checkpoint, dense: Judge, training: Asked | None = None) -> dict[str, Any]:
    """Plan, judge, and where the cell says so train and judge again; `refused` where the method cannot reach that
    keep. What was there before recovery stands beside it."""
    windows = usable(dense.decoder, calibration_windows(checkpoint, None, None, cell.seed))
    start = time.perf_counter()
    try:
        runs = run_all(dense.decoder, parse_all([cell.request]), windows.ids, cell.seed)
    except ValueError as error:
        return {**asdict(cell), "refused": str(error)}
    seconds = time.perf_counter() - start
    result = runs[-1].result
    found = {**dense.figures(result.decoder), "kept": result.kept, "planning_s": seconds}
    if cell.recover is None or training is None:
        return {**asdict(cell), **found}
    plan = plan_of(checkpoint, dense.decoder, windows, runs)
    return {**asdict(cell), **found, "before": found, **_trained(cell, checkpoint, plan, dense, training)}


def _trained(cell: Cell, checkpoint: Checkpoint, plan: Plan, dense: Judge, training: Asked) -> dict[str, Any]:
    """Figures of the plan after recovery, and what that took. Methods that make the same plan are trained once, and
    later cells of a seed find the teacher's answers there: their seconds are less than recovery alone takes."""
    arrays = sorted((name, sha256_array(array)) for name, array in plan.arrays.items())
    key = (cell.seed, cell.recover, training, repr(plan.edits), *arrays)
    if key in dense.trained:
        return dense.trained[key]
    start = time.perf_counter()
    asked = Recovery(cell.recover, training.text, training.tokens)  # type: ignore[arg-type]
    ids = recovery_windows(checkpoint, asked, cell.seed).ids
    done = recover(dense.decoder, plan, ids, Training(asked.kind, steps=training.steps), seed=cell.seed,
                   teacher=dense.teacher)
    seconds = time.perf_counter() - start
    stored = Stored.of(dense.decoder, done.plan, dense=False)
    small = dense.decoder.with_blocks(stored.blocks(stored.matrices()))
    dense.trained[key] = {**dense.figures(small), "recovery_s": seconds,
                          "recovery_tokens": int(ids.size), "recovery_steps": done.curve[-1][0]}
    return dense.trained[key]


def load(path: Path) -> dict[str, Any]:
    """The file as it is, or an empty one."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"cells": {}}


def save(path: Path, found: dict[str, Any]) -> None:
    """Write whole or not at all."""
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    beside.replace(path)


def _logs(decoder: Decoder, ids_1T: np.ndarray) -> Tensor:
    """Log probabilities [T - 1, V] of the tokens but the first, float64."""
    with torch.no_grad():
        hidden = decoder.embed(ids_1T)
        for block in decoder.blocks:
            hidden = decoder.run(block, hidden)
        return decoder.logits(hidden)[0, :-1].to(torch.float64).log_softmax(-1)


@click.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
@click.option("--method", "methods", multiple=True, required=True, help="As --method of plan, without keep.")
@click.option("--keep", "keeps", multiple=True, type=float, default=KEEPS)
@click.option("--seed", "seeds", multiple=True, type=int, default=SEEDS)
@click.option("--text", type=click.Path(path_type=Path, exists=True), help="Held-out text; default: the installed one.")
@click.option("--device", default="cpu", help="Where plans are made and judged: cpu or cuda.")
@click.option("--recover", type=click.Choice(["factors", "lora", "norms"]), help="Cells after recovery, not before.")
@click.option("--recover-text", type=click.Path(path_type=Path, exists=True), help="Default: the calibration text.")
@click.option("--recover-tokens", type=int, default=262_144)
@click.option("--recover-steps", type=int, default=300)
def main(
    models: tuple[Path, ...], output: Path, methods: tuple[str, ...], keeps: tuple[float, ...], seeds: tuple[int, ...],
    text: Path | None, device: str, recover: str | None, recover_text: Path | None, recover_tokens: int,
    recover_steps: int,
) -> None:
    """Run the cells that are missing, one after the other, saving after each."""
    found = load(output)
    here = environment(torch.get_num_threads())
    where = {"cpu": here["cpu_model"], "threads": here["threads"], "device": device_name(device)}
    found["environment"] = here
    found["held_out"] = {"text": text.name if text else "validation.jsonl", "tokens": TOKENS}
    opened = {path.name: Checkpoint.open(path) for path in models}
    judges: dict[str, Judge] = {}
    training = Asked(recover_text, recover_tokens, recover_steps)
    for cell in cells(list(opened), methods, keeps, seeds, recover):
        if cell.key in found["cells"]:
            continue
        if cell.model not in judges:
            judges[cell.model] = dense = judge(opened[cell.model], text, device)
            found.setdefault("dense", {})[cell.model] = {"perplexity": dense.perplexity, "window": dense.ids.shape[1]}
        figures = run_cell(cell, opened[cell.model], judges[cell.model], training)
        found["cells"][cell.key] = {**figures, "where": where}
        save(output, found)
        click.echo(f"{cell.key}: {found['cells'][cell.key].get('perplexity_ratio', 'refused')}", err=True)


if __name__ == "__main__":
    main()
