"""Train (or train on) a small Llama such as examples/specs-5m: `python examples/train_specs.py --help`.

    python examples/train_specs.py examples/specs-5m --text train.jsonl.gz --valid valid.jsonl.gz -o mature

Continues from the checkpoint's weights unless --from-scratch. One GPU trains the 5.5M-parameter model on 300 million
tokens in minutes; a CPU takes hours. The weights kept are those of the best validation loss on the way. Writes fp16
safetensors, the tokenizer as it was, and a model card with what was measured on the validation text after the cast to
fp16: perplexity in windows of several lengths, since a model trained on short windows may break down on longer ones.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from foldrank.disk.staging import staged_folder
from foldrank.plans.texts import load_text

EVALUATED = 200_000
"""Validation tokens that are looked at, from the start of the text."""

LENGTHS = (128, 256, 512, 1024)
"""Windows whose perplexity the model card gives, as far as the model's context reaches."""

LOOKS = 20
"""How often the validation loss is taken on the way."""


@dataclass(frozen=True)
class Schedule:
    """AdamW, linear warm-up, cosine to a tenth of the peak; `steps` of `batch` windows of `window` tokens."""

    steps: int
    batch: int
    window: int
    peak: float
    decay: float = 0.1

    def rate(self, step: int) -> float:
        """Learning rate of a step, from 0."""
        warm = max(1, self.steps // 50)
        if step < warm:
            return self.peak * (step + 1) / warm
        done = (step - warm) / max(1, self.steps - warm)
        return self.peak * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))


def token_stream(texts: list[str], folder: Path) -> Tensor:
    """All documents in a row, an end token after each, as int64 [tokens]."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return torch.from_numpy(np.concatenate([np.asarray([*row, tokenizer.eos_token_id]) for row in rows]))


def batches(tokens: Tensor, schedule: Schedule, seed: int, device: str) -> Iterator[Tensor]:
    """Windows [batch, window + 1] from random places."""
    draw = torch.Generator().manual_seed(seed)
    tokens = tokens.to(device)
    for _ in range(schedule.steps):
        starts = torch.randint(len(tokens) - schedule.window - 1, (schedule.batch,), generator=draw).to(device)
        yield tokens[starts[:, None] + torch.arange(schedule.window + 1, device=device)]


def train(
    model: PreTrainedModel, tokens: Tensor, held_out: Tensor, schedule: Schedule, *, seed: int, device: str
) -> list[tuple[int, float]]:
    """Train in place and keep the best state on the way; bf16 autocast on a GPU, float32 weights throughout.

    Gives (steps done, validation perplexity at the window trained on) for each look.
    """
    matrices = [p for p in model.parameters() if p.ndim > 1]
    gains = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": schedule.decay}, {"params": gains, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=schedule.peak, betas=(0.9, 0.95))
    started = time.monotonic()
    curve: list[tuple[int, float]] = []
    best: dict[str, Tensor] = {}
    for step, ids in enumerate(batches(tokens, schedule, seed, device), 1):
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step - 1)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            logits = model(input_ids=ids[:, :-1], use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % max(1, schedule.steps // LOOKS) == 0 or step == schedule.steps:
            curve.append((step, perplexity(model, held_out, window=schedule.window, device=device)))
            click.echo(f"step {step} of {schedule.steps}: loss {loss.item():.3f}, validation perplexity "
                       f"{curve[-1][1]:.2f}, {time.monotonic() - started:.0f} s")
            if curve[-1][1] == min(found for _, found in curve):
                best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(best)
    return curve


@torch.no_grad()
def perplexity(model: PreTrainedModel, tokens: Tensor, *, window: int, device: str) -> float:
    """exp of the mean loss over non-overlapping windows from the start of the text, first token of each not counted."""
    model.eval()
    count = min(len(tokens), EVALUATED) // window
    windows = tokens[: count * window].view(count, window).to(device)
    total = 0.0
    for ids in windows.split(16):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        total += torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum").item()
    return math.exp(total / (count * (window - 1)))


def save(model: PreTrainedModel, source: Path, target: Path, card: str) -> None:
    """Weights in fp16, every other file of the source, and the card."""
    with staged_folder(target) as folder:
        for path in source.iterdir():
            if path.is_file() and path.suffix != ".safetensors" and path.name not in ("README.md", "config.json"):
                shutil.copy(path, folder / path.name)
        model.half().save_pretrained(folder)
        # the config as it was: its bytes are what plans and bundles know the checkpoint by
        shutil.copy(source / "config.json", folder / "config.json")
        (folder / "README.md").write_text(card, encoding="utf-8")


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--text", type=click.Path(path_type=Path), required=True, help="Training text: .txt, .jsonl, .jsonl.gz.")
@click.option("--valid", type=click.Path(path_type=Path), required=True, help="Validation text.")
@click.option("--tokens", default="300M", show_default=True, help="How many to train on.")
@click.option("--batch", default=64, show_default=True)
@click.option("--window", default=512, show_default=True, help="Tokens of a training window.")
@click.option("--rate", default=1.5e-3, show_default=True, help="Peak learning rate.")
@click.option("--from-scratch", is_flag=True, help="Forget the checkpoint's weights.")
@click.option("--seed", default=0, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
def main(checkpoint: Path, text: Path, valid: Path, tokens: str, batch: int, window: int, rate: float,
         from_scratch: bool, seed: int, output: Path) -> None:
    """Train CHECKPOINT on text and write it, with the perplexity that was measured."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    if from_scratch:
        model = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32)
    model.to(device)
    wanted = int(float(tokens.rstrip("MK")) * {"M": 1e6, "K": 1e3}.get(tokens[-1], 1))
    schedule = Schedule(max(1, wanted // (batch * window)), batch, window, rate)
    held_out = token_stream(load_text(valid, "validation"), checkpoint)
    lengths = [length for length in LENGTHS if length <= min(model.config.max_position_embeddings, len(held_out))]
    before = {length: perplexity(model, held_out, window=length, device=device) for length in lengths}
    curve = train(model, token_stream(load_text(text, "calibration"), checkpoint), held_out, schedule, seed=seed,
                  device=device)
    model.half().float()
    after = {length: perplexity(model, held_out, window=length, device=device) for length in lengths}
    facts = {"tokens": schedule.steps * batch * window, "steps": schedule.steps, "batch": batch, "window": window,
             "peak_rate": rate, "seed": seed, "from_scratch": from_scratch, "device": device,
             "evaluated_tokens": min(len(held_out), EVALUATED), "perplexity_before": before, "perplexity_after": after,
             "validation_curve": curve}
    save(model, checkpoint, output, f"# {output.name}\n\nTrained from `{checkpoint.name}`:\n\n"
         f"```json\n{json.dumps(facts, indent=2)}\n```\n")
    for length in lengths:
        click.echo(f"windows of {length}: perplexity {before[length]:.2f} -> {after[length]:.2f}")
    click.echo(str(output))


if __name__ == "__main__":
    main()
