"""Tasks, run by lm-eval on a bundle and its dense one: accuracies, and their difference item by item.

Knows items and scores. What lm-eval does with them is in `lm_eval_child.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from foldrank.errors import SourceError
from foldrank.progress import SILENT, Progress
from foldrank.reports.tasks import Accuracy, TaskRow
from foldrank.runtime.tasks.items import TASKS, Item

BACKENDS = ("onnxruntime", "onnxruntime-genai")
"""lm-eval's: ONNX Runtime itself, and onnxruntime-genai."""

_STAGE = "tasks"
_RESAMPLES = 4000
_QUIET = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TQDM_DISABLE": "1",
          "ORT_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}


def run(
    dense: Path, bundle: Path, items: Mapping[str, Sequence[Item]], *, provider: str, context: int,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """What lm-eval answers: `scores` by back end, bundle ("dense", "bundle") and task, `missing` back ends, `lm_eval`'s
    version. Raises SourceError with its last word where it fails."""
    request = {
        "bundles": {"dense": str(dense.absolute()), "bundle": str(bundle.absolute())}, "backends": BACKENDS,
        "provider": provider, "context": context,
        "tasks": {name: {"metric": TASKS[name][1], "items": [asdict(item) for item in given]}
                  for name, given in items.items() if given},
    }
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "request.json", Path(folder) / "answer.json"
        asked.write_text(json.dumps(request), encoding="utf-8")
        _child([str(asked), str(answered)], 2 * len(BACKENDS), bundle, progress)
        found: dict[str, Any] = json.loads(answered.read_text(encoding="utf-8"))
    return found


def rows(found: Mapping[str, Any], seed: int) -> list[TaskRow]:
    """A row for every back end and task."""
    return [
        _row(backend, task, dense, by_bundle["bundle"][task], seed)
        for backend, by_bundle in found["scores"].items() for task, dense in by_bundle["dense"].items()
    ]


def _row(backend: str, task: str, dense: Sequence[float], bundle: Sequence[float], seed: int) -> TaskRow:
    difference_N = np.asarray(bundle) - np.asarray(dense)
    chosen = np.random.default_rng(seed).integers(len(difference_N), size=(_RESAMPLES, len(difference_N)))
    low, high = np.quantile(difference_N[chosen].mean(1), [0.025, 0.975])
    return TaskRow(
        task=task, backend=backend, metric=TASKS[task][1], items=len(dense), dense=accuracy(dense),
        bundle=accuracy(bundle), difference=float(difference_N.mean()), ci95=[float(low), float(high)],
    )


def accuracy(scores: Sequence[float]) -> Accuracy:
    """Mean of zeros and ones, and its standard error: the sample's deviation over the root of how many there are."""
    values = np.asarray(scores, dtype=np.float64)
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
    return Accuracy(accuracy=float(values.mean()), standard_error=error)


def _child(arguments: list[str], steps: int, bundle: Path, progress: Progress) -> None:
    command = [sys.executable, "-m", "foldrank.runtime.tasks.lm_eval_child", *arguments]
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(command, env={**os.environ, **_QUIET}, stdin=subprocess.DEVNULL, text=True,
                                 stdout=subprocess.PIPE, stderr=errors, errors="replace", start_new_session=True)
        progress.start(_STAGE, steps)
        try:
            for line in child.stdout or ():
                if line.startswith("done "):
                    progress.advance(_STAGE)
            code = child.wait()
        finally:
            child.kill()
            child.wait()
            if child.stdout:
                child.stdout.close()
            progress.finish(_STAGE)
        errors.seek(0)
        said = [line for line in errors.read().decode(errors="replace").splitlines() if line.strip()]
    if code:
        why = said[-1][:300] if said else f"exit code {code}"
        raise SourceError(bundle, f"lm-eval failed: {why}", "leave --tasks out, or try lm-eval by itself")
