"""Size and quality of few bits, alone and after folding and factoring: python -m foldrank.benchmarks.few_bits MODEL...

Each case is planned, applied to an exported graph for its size, and judged as `quality.py` judges: perplexity over that
of the dense model, KL and top-1 agreement on held-out text. Speed is `cpu_speed`'s: these models fit a cache.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click
import torch

from foldrank.benchmarks.environment import environment
from foldrank.benchmarks.quality_decode import graph_bytes
from foldrank.benchmarks.quality_judge import Judge, judge
from foldrank.bundle.bundle import Bundle
from foldrank.disk.staging import write_atomically
from foldrank.model.checkpoint import Checkpoint
from foldrank.plans.calibration import calibration_windows, usable
from foldrank.plans.compose import parse_all, plan_of, run_all
from foldrank.plans.request import parse
from foldrank.verbs.apply import apply
from foldrank.verbs.export import export

BASES = ((), ("dipsvd:keep=0.8",), ("slm:keep=0.9", "dipsvd:keep=0.8"))
STORED = ((), ("quantize:bits=8",), ("quantize:bits=4",), ("quantize:bits=4,head_bits=4",))
"""Every base is stored in every way."""


def rows(
    checkpoint: Checkpoint, dense: Bundle, known: Judge, base: tuple[str, ...], work: Path
) -> list[dict[str, Any]]:
    """A base in every way of storing it: its size beside the dense bundle's, and what it costs."""
    windows = usable(known.decoder, calibration_windows(checkpoint, None, None, 0))
    runs = run_all(known.decoder, parse_all(base), windows.ids, 0) if base else ()
    found = []
    for stored in STORED:
        if not (base or stored):
            continue
        whole = run_all(known.decoder, [parse(text) for text in (*base, *stored)], windows.ids, 0, made=runs)
        small = apply(dense, plan_of(checkpoint, known.decoder, windows, whole), work / "small", force=True)
        found.append({
            "model": checkpoint.name, "methods": [*base, *stored], "bytes": graph_bytes(small),
            "dense_bytes": graph_bytes(dense),
            **known.figures(whole[-1].result.decoder),
        })
    return found


@click.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("benchmarks/results/few_bits.json"))
def main(models: tuple[Path, ...], output: Path) -> None:
    """Run every case on every model and write the result."""
    found: list[dict[str, Any]] = []
    for model in models:
        checkpoint = Checkpoint.open(model)
        known = judge(checkpoint, None)
        with tempfile.TemporaryDirectory() as work:
            dense = export(model, Path(work) / "dense", dtype="fp32", offline=True)
            for base in BASES:
                found += rows(checkpoint, dense, known, base, Path(work))
                click.echo(f"{model.name} {' '.join(base)}: {found[-1]['perplexity_ratio']:.4f}", err=True)
    result = {"rows": found, "environment": environment(torch.get_num_threads())}
    write_atomically(output.absolute(), json.dumps(result, indent=1, sort_keys=True).encode() + b"\n")


if __name__ == "__main__":
    main()
