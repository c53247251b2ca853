"""What RMS norms in the place of LayerNorms are worth on this CPU, one thread, in time of the CPU.

    python benchmarks/campaigns/pre_rmsnorm.py --json benchmarks/results/pre_rmsnorm.json

A random checkpoint of GPT-2 small's shape is exported and edited. Dense and edited bundle, and the dense one again as
the null test, take turns in one process, each round in another order. Speed only: its weights are noise.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from foldrank.benchmarks.environment import environment
from foldrank.benchmarks.random_checkpoint import write_tokenizer
from foldrank.benchmarks.statistics import estimate
from foldrank.runtime.decoding.decoder import OrtDecoder
from foldrank.runtime.providers.provider import resolve
from foldrank.verbs.apply import apply
from foldrank.verbs.export import export
from foldrank.verbs.plan import plan

NAMES = ("dense", "pre_rmsnorm", "dense again")
TOKENS = 8
"""Decoded in a sample."""


def checkpoint(folder: Path) -> Path:
    """GPT-2 small: 12 blocks, 768 channels, 50,257 words. Biases and norms are random too."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def sampled(decoders: dict[str, OrtDecoder], work: Callable[[OrtDecoder], None], rounds: int) -> dict[str, list[float]]:
    """Seconds of the CPU that each takes in each round."""
    found: dict[str, list[float]] = {name: [] for name in decoders}
    for number in range(rounds + 3):
        for name in np.random.default_rng(number).permutation(list(decoders)):
            begun = time.process_time()
            work(decoders[name])
            if number >= 3:
                found[name].append(time.process_time() - begun)
    return found


def row(phase: str, prompt: int, seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Dense over edited, and dense over dense: medians of the rounds' ratios with their intervals."""
    dense, *others = (np.array(seconds[name]) for name in NAMES)
    found: dict[str, Any] = {"phase": phase, "prompt_tokens": prompt, "rounds": len(dense),
                             "dense_ms": 1000 * float(np.median(dense))}
    for name, taken in zip(("ratio", "null"), others, strict=True):
        whole = estimate([(dense / taken).tolist()], 0)
        found |= {name: whole.ratio, f"{name}_ci95": whole.ci95}
    return found


def main() -> None:
    """Make, edit, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=30)
    asked = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        model = checkpoint(work / "checkpoint")
        dense = export(model, work / "dense", dtype="fp32", offline=True)
        made = plan(model, methods=["pre_rmsnorm"], calibration_tokens=64, offline=True)
        small = apply(dense, made, work / "small")
        bundles = dict(zip(NAMES, (dense.path, small.path, dense.path), strict=True))
        decoders = {name: OrtDecoder.open(path, resolve("cpu"), threads=1) for name, path in bundles.items()}
        for prompt in (16, 128):
            ids = np.random.default_rng(0).integers(50_257, size=(1, prompt))
            rows.append(row("prefill", prompt, sampled(decoders, lambda d, ids=ids: d.first(ids), asked.rounds)))
            for decoder in decoders.values():
                decoder.first(ids)
            rows.append(row("decode", prompt, sampled(decoders, decoded, asked.rounds)))
            print(*rows[-2:], sep="\n", flush=True)
    found = {"shape": "GPT-2 small, random", "time": "of the CPU", "tokens_a_sample": TOKENS, "rows": rows,
             "environment": environment(1)}
    asked.json.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def decoded(decoder: OrtDecoder) -> None:
    """Some tokens more."""
    for _ in range(TOKENS):
        decoder.next()


if __name__ == "__main__":
    main()
