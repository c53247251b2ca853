"""Decode speed against nats lost, of bundles of one model on this machine:

    python benchmarks/campaigns/speed_front.py DENSE --front benchmarks/results/front_smollm2.json \
        --json benchmarks/results/speed_smollm2.json "rotate + quantize:bits=4=BUNDLE" ...

What a row lost is taken from the front's row of that name, or else from the bundle's own quality report; its speed is
`foldrank bench --quick --engine genai`, paired with the dense bundle. For a quiet machine: the load is in the
environment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from foldrank import strictjson
from foldrank.benchmarks.environment import environment
from foldrank.bundle.bundle import Bundle
from foldrank.reports.bench import FORM, Speedup, headline
from foldrank.reports.validate import FORM as QUALITY
from foldrank.runtime.sessions.session import default_threads
from foldrank.verbs.bench import bench

BUDGET_S = 60.0
"""Of a bundle; its first prompt is measured whole."""


@click.command()
@click.argument("dense", type=click.Path(path_type=Path, exists=True))
@click.argument("bundles", nargs=-1, required=True)
@click.option("--front", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--json", "output", type=click.Path(path_type=Path), required=True)
def main(dense: Path, bundles: tuple[str, ...], front: Path, output: Path) -> None:
    """Time each ROW=BUNDLE and write all rows."""
    known = {row["method"]: row["perplexity_over_dense"] for row in strictjson.read(front)["rows"]}
    rows: list[dict[str, Any]] = []
    for text in bundles:
        name, _, folder = text.rpartition("=")
        rows.append(_row(name, Path(folder), dense, known))
        click.echo(json.dumps(rows[-1]))
        body = {"environment": environment(default_threads()), "rows": rows}
        output.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


def _row(name: str, folder: Path, dense: Path, known: Mapping[str, float]) -> dict[str, Any]:
    timed = FORM.parse(bench(folder, baseline=dense, quick=True, engines=("genai",), budget_s=BUDGET_S))
    bundle = Bundle.open(folder)
    lost = known.get(name)
    if lost is None:
        judged = QUALITY.read(bundle)
        if judged is None or judged.quality is None:
            raise click.ClickException(f"{name} is no row of the front, and {folder} has no quality report")
        lost = judged.quality.perplexity_ratio
    prompts = [entry for entry in timed.speedups if entry.phase == "prefill"]
    return {"method": name, "perplexity_over_dense": lost, "bytes": sum(
                file.stat().st_size for file in folder.glob("*.onnx*")),
            "decode": _entry(headline(timed.speedups)), "prompt": _entry(prompts[0]) if prompts else None}


def _entry(found: Speedup) -> dict[str, Any]:
    return {key: getattr(found, key) for key in ("engine", "prompt_tokens", "ratio", "ci95", "ideal", "stable")}


if __name__ == "__main__":
    main()
