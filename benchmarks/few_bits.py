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
from foldrank.benchmarks.quality import Judge, judge
from foldrank.bundle import Bundle
from foldrank.checkpoint import Checkpoint
from foldrank.plans.compose import calibration_windows, parse_all, plan_of, run_all, usable
from foldrank.staging import write_atomically
from foldrank.verbs.apply import apply
from foldrank.verbs.export import export

CASES = (
    ("quantize:bits=8",),
    ("quantize:bits=4",),
    ("quantize:bits=4,head=true",),
    ("dipsvd:keep=0.8",),
    ("dipsvd:keep=0.8", "quantize:bits=4"),
    ("auto:keep=0.9",),
    ("auto:keep=0.9", "quantize:bits=8"),
    ("auto:keep=0.9", "quantize:bits=4"),
    ("auto:keep=0.8", "quantize:bits=8"),
)


def row(checkpoint: Checkpoint, dense: Bundle, known: Judge, methods: tuple[str, ...], work: Path) -> dict[str, Any]:
    """One case: its size over the dense bundle's and what it costs."""
    windows = usable(known.decoder, calibration_windows(checkpoint, None, None, 0))
    runs = run_all(known.decoder, parse_all(methods), windows.ids, 0)
    small = apply(dense, plan_of(checkpoint, known.decoder, windows, runs), work / "small", force=True)
    return {"model": checkpoint.name, "methods": list(methods), "bytes": _bytes(small), "dense_bytes": _bytes(dense),
            **known.figures(runs[-1].result.decoder)}


def _bytes(bundle: Bundle) -> int:
    return sum(path.stat().st_size for path in bundle.path.glob("*.onnx*"))


@click.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("benchmarks/results/few_bits.json"))
def main(models: tuple[Path, ...], output: Path) -> None:
    """Run every case on every model and write the result."""
    rows: list[dict[str, Any]] = []
    for model in models:
        checkpoint = Checkpoint.open(model)
        known = judge(checkpoint, None)
        with tempfile.TemporaryDirectory() as work:
            dense = export(model, Path(work) / "dense", dtype="fp32", offline=True)
            for methods in CASES:
                rows.append(row(checkpoint, dense, known, methods, Path(work)))
                click.echo(f"{model.name} {' '.join(methods)}: {rows[-1]['perplexity_ratio']:.4f}", err=True)
    result = {"rows": rows, "environment": environment(torch.get_num_threads())}
    write_atomically(output.absolute(), json.dumps(result, indent=1, sort_keys=True).encode() + b"\n")


if __name__ == "__main__":
    main()
