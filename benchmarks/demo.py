"""Run the demo of the README and keep its figures: python -m foldrank.benchmarks.demo -o benchmarks/results/demo.json

The figures are copied out of the bundle's own reports; nothing is computed again.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from foldrank import strictjson
from foldrank.reports import bench, validate
from foldrank.reports.form import plain

ASKED = ("--goal", "balanced", "--minutes", "10")


@click.command()
@click.option("--model", default="build/smollm2", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
def main(model: str, output: Path) -> None:
    """Compress the model as `make demo` does, and write what came out."""
    with tempfile.TemporaryDirectory() as folder:
        dense, small = Path(folder) / "dense", Path(folder) / "demo"
        command = ["compress", model, *ASKED, "-o", str(small)]
        started = time.monotonic()
        subprocess.run([sys.executable, "-m", "foldrank", *command, "--dense", str(dense)], check=True)
        wall_s = time.monotonic() - started
        output.write_text(strictjson.dumps({
            "command": f"foldrank {' '.join(command[:-1])} build/demo", "wall_s": wall_s, **figures(small, dense)
        }), encoding="utf-8")


def figures(small: Path, dense: Path) -> dict[str, Any]:
    """The figures of a compressed bundle and its dense one, from their files."""
    validation = validate.FORM.parse(strictjson.read(small / validate.FORM.file))
    timed = bench.FORM.parse(strictjson.read(small / bench.FORM.file))
    entries = [
        {key: getattr(entry, key) for key in ("phase", "engine", "ratio", "ci95", "ideal", "realised_over_ideal",
                                              "stable", "prompt_tokens", "batch")}
        for entry in timed.speedups
    ]
    rows = [
        {key: getattr(row, key) for key in ("bundle", "engine", "prompt_tokens", "batch", "ttft_ms", "tpot_ms",
                                            "bandwidth_use", "decode_tokens_per_s", "peak_rss_bytes", "stable")}
        for row in timed.rows
    ]
    return {
        "model_bytes": {"dense": _model_bytes(dense), "compressed": _model_bytes(small)},
        "graph": plain(validation.graph), "quality": plain(validation.quality),
        "verdict": validation.verdict, "environment": plain(timed.environment),
        "null_test": {key: getattr(timed.null_test, key) for key in ("ratio", "ci95", "passed")},
        "decode": entries[timed.speedups.index(bench.headline(timed.speedups))], "speedups": entries, "rows": rows,
        "predicted": json.loads((small / "plan" / "plan.json").read_text())["predicted"],
    }


def _model_bytes(bundle: Path) -> int:
    return sum((bundle / name).stat().st_size for name in ("model.onnx", "model.onnx.data"))


if __name__ == "__main__":
    main()
