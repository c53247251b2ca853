"""Every family through every exporter, edited in every way, against its checkpoint in PyTorch: one command.

    python tests/matrix.py [--family llama …] [--exporter genai …] [--dtype fp32] [--exports FOLDER] [--json FILE]

Cells that ran replace those of the JSON file; docs/families.md is written from it (benchmarks/readme.py).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

sys.path.insert(0, str(Path(__file__).resolve().parent / "support"))

import numpy as np
import onnxruntime.capi.onnxruntime_pybind11_state as ort_errors
from continued import genai_tokens, optimum_python, optimum_tokens, own_tokens
from exports import EXPORTERS, exported
from proved import edited
from synthetic import Graph
from tiny_families import TINY, save
from torch_model import IDS, Model

from foldrank.errors import FoldrankError
from foldrank.graph.safe.load import load_model
from foldrank.model.checkpoint import Checkpoint
from foldrank.runtime.proof.compare import kl_divergence, log_softmax
from foldrank.verbs.export_anatomy import misfits
from foldrank.versions import versions

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "families.json"
LIMITS = {"fp32": {"error": 1e-4}, "fp16": {"kl_nats": 1e-4}}
"""Of each figure of a cell; a window of fp16 is held to KL, as its logits cannot be held to an absolute error."""
STEPS = (17, 1, 1, 21)
PADDED = 6
Edit = Callable[[Model], object]
_UPSTREAM = (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError, NotImplementedError, OSError,
             AssertionError, subprocess.CalledProcessError, ort_errors.Fail, ort_errors.InvalidArgument,
             ort_errors.InvalidGraph, ort_errors.NotImplemented, ort_errors.RuntimeException)


def plans(model: Model) -> Iterator[tuple[str, Edit]]:
    """Name and edits of every plan of a cell."""
    yield "empty", lambda m: m
    last = len(model.original)
    for length in (2, 4):
        for where, start in (("start", 0), ("middle", (last - length + 1) // 2), ("end", last - length)):
            yield f"fold {length} {where}", _fold(tuple(range(start, start + length)))
    yield "low rank", lambda m: [m.low_rank(f"block.{i % last:02d}.{r}", 5 + i) for i, r in enumerate(_sites(m))]
    up = "gate_up" if "gate" in model.roles else "up"
    yield "low rank packed", lambda m: m.low_rank("block.00.qkv", 13).low_rank(f"block.{last - 1:02d}.{up}", 17)
    yield "tables", lambda m: m.table("both", 9) if m.tied else m.table("embedding", 8).table("head", 9)
    yield "width", lambda m: [m.narrow(i, channels, down=i == 0, bias=i != 1) for i, channels in _channels(m)]
    drops = ((0, "attention"), (1, "mlp"), (3, "attention"), (3, "mlp"), (last - 1, "attention"))
    yield "branches dropped", lambda m: [m.drop(*drop) for drop in drops]
    if model.rotates:
        yield "rotated", lambda m: m.rotate()
    fold = _fold((2, 3))
    if model.centres:
        yield "pre_rmsnorm", lambda m: [
            fold(m), m.drop(0, "attention"), m.drop(last - 1, "mlp"),
            *(m.narrow(i, channels, down=True, bias=True) for i, channels in _channels(m) if i == 1),
            m.bias("block.04.o").centre().rotate()]
    yield "all kinds", lambda m: [
        fold(m), m.drop(0, "attention"), m.drop(last - 1, "mlp"),
        *(m.narrow(i, channels, down=True, bias=True) for i, channels in _channels(m) if i == 1),
        m.low_rank("block.02.qkv", 13).low_rank("block.04.down", 8).table("head", 10)]
    yield "both", lambda m: [fold(m), m.low_rank("block.02.qkv", 13), m.low_rank("block.05.down", 8)]


def _channels(model: Model) -> list[tuple[int, list[int]]]:
    """Channels that three blocks keep, of other widths each."""
    width = len(model.weight(0, "down"))
    last = len(model.original) - 1
    return [(0, list(range(0, width, 2))), (1, list(range(3, width - 5))), (last, list(range(1, width, 3)))]


def _sites(model: Model) -> list[str]:
    joint = any(path.endswith("query_key_value") for path in model.linears)
    return ["qkv", *(r for r in model.roles if r not in "qkv")] if joint else list(model.roles)


def _fold(blocks: tuple[int, ...]) -> Edit:
    """The mean of the blocks that are of the lowest one's kind; of two equals the upper alone, norms and all."""
    def edit(model: Model) -> None:
        equal = [b for b in blocks if model.kind(b) == model.kind(blocks[0])]
        if len(blocks) == len(equal) == 2:
            model.fold(blocks, {blocks[0]: 0.0, blocks[1]: 1.0}, "top")
        else:
            model.fold(blocks, {b: (b in equal) / len(equal) for b in blocks}, into=equal[-1])

    return edit


def check(graph: Path, model: Model, folder: Path) -> dict[str, float | None]:
    """What the edited graph gets wrong, prefilled, decoded with its cache, padded; None where it cannot be padded."""
    runner = Graph(edited(graph, model, folder))
    expected = model.logits(IDS)
    found = {"prefill": runner.logits(IDS), "cached": runner.logits(IDS, STEPS)}
    if runner.pads:
        found["padded"] = runner.padded(IDS, PADDED)
        expected_padded = model.logits(IDS[:-PADDED])
    wanted = {"prefill": expected, "cached": expected, "padded": expected_padded if runner.pads else expected}
    figures: dict[str, float | None] = {f"{name}_error": _worst(found[name], wanted[name]) if name in found else None
                                        for name in wanted}
    both = [(found[name], wanted[name]) for name in found]
    figures["argmax"] = min(float((a.argmax(-1) == b.argmax(-1)).mean()) for a, b in both)
    figures["kl_nats"] = max(float(kl_divergence(log_softmax(b), log_softmax(a)).mean()) for a, b in both)
    return figures


def _worst(found: np.ndarray, expected: np.ndarray) -> float:
    if not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found.astype(np.float64) - expected).max() / np.abs(expected).max())


def passes(figures: dict[str, float | None], dtype: str) -> bool:
    """Whether a plan's figures are within the graph proof's tolerances."""
    if dtype != "fp32":
        return float(figures["kl_nats"] or 0) <= LIMITS["fp16"]["kl_nats"]
    errors = [v for name, v in figures.items() if name.endswith("_error") and v is not None]
    return max(errors) <= LIMITS["fp32"]["error"] and figures["argmax"] == 1.0


def cell(family: str, exporter: str, dtype: str, exports: Path, only: str | None = None) -> dict[str, Any]:
    """One row of the table: what became of every plan, or why there is none."""
    row: dict[str, Any] = {"family": family, "exporter": exporter, "dtype": dtype}
    checkpoint = exports / family
    if not (checkpoint / "config.json").is_file():
        save(TINY[family], checkpoint)
    begun = time.perf_counter()
    try:
        graph = exported(exporter, checkpoint, exports / f"{family}-{exporter}-{dtype}", dtype)
    except FoldrankError as error:
        return {**row, "status": "refused", "reason": _line(error)}
    except _UPSTREAM as error:
        return {**row, "status": "not exported", "reason": _line(error)}
    row["export_s"] = round(time.perf_counter() - begun, 1)
    if odd := misfits(load_model(graph), Checkpoint.open(checkpoint)):
        return {**row, "status": "failed", "reason": f"not made of what the checkpoint is: {odd[0]}"}
    return {**row, **_edited_cell(graph, checkpoint, dtype, only)}


def _edited_cell(graph: Path, checkpoint: Path, dtype: str, only: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, edit in plans(Model(checkpoint)):
            if only not in (None, name):
                continue
            model = Model(checkpoint)
            edit(model)
            try:
                figures = check(graph, model, Path(folder) / name)
            except FoldrankError as error:
                return {"status": "refused", "reason": f"{name}: {_line(error)}", "plans": found}
            except _UPSTREAM as error:
                return {"status": "failed", "reason": f"{name}: {type(error).__name__}: {_line(error)}", "plans": found}
            found[name] = {k: v if v is None else float(f"{v:.2g}") for k, v in figures.items()}
    wrong = [name for name, figures in found.items() if not passes(figures, dtype)]
    reason = {"reason": f"beyond tolerance: {', '.join(wrong)}"} if wrong else {}
    return {"status": "failed" if wrong else "proved", **reason, "plans": found}


def _line(error: BaseException) -> str:
    if isinstance(error, FoldrankError):
        return " ".join(error.what.split())[:200]
    stderr = getattr(error, "stderr", None)
    text = stderr.decode() if isinstance(stderr, bytes) else str(error)
    return (text.strip().splitlines() or [type(error).__name__])[-1][:200]


def loads(rows: list[dict[str, Any]], exports: Path) -> None:
    """Say in each row whose export is a bundle which consumers load it: true where their tokens are foldrank's own."""
    bundles = {exports / f"{r['family']}-{r['exporter']}-{r['dtype']}" / "bundle": r for r in rows}
    bundles = {path: row for path, row in bundles.items() if (path / "manifest.json").is_file()}
    python = optimum_python()
    theirs = optimum_tokens(python, list(bundles)) if python and bundles else {}
    for bundle, row in bundles.items():
        wanted = own_tokens(bundle)
        row["loads"] = {"optimum": _verdict(theirs.get(bundle, "no environment with optimum-onnx"), wanted)}
        try:
            row["loads"]["genai"] = _verdict(genai_tokens(bundle), wanted)
        except (FoldrankError, *_UPSTREAM) as error:
            row["loads"]["genai"] = _line(error)


def _verdict(found: list[int] | str, wanted: list[int]) -> bool | str:
    return " ".join(found.split())[:200] if isinstance(found, str) else found == wanted or "other tokens"


def main() -> None:
    """Run the cells asked for, print each, write the JSON. Exit code 1 where a cell failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", nargs="*", default=list(TINY))
    parser.add_argument("--exporter", nargs="*", default=list(EXPORTERS))
    parser.add_argument("--dtype", nargs="*", default=["fp32"])
    parser.add_argument("--exports", type=Path)
    parser.add_argument("--json", type=Path, default=RESULTS)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        exports = asked.exports or Path(folder)
        rows, failed = [], False
        for family in asked.family:
            for exporter in asked.exporter:
                for dtype in asked.dtype:
                    row = cell(family, exporter, dtype, exports)
                    failed |= row["status"] == "failed"
                    worst = max((f["prefill_error"] for f in row.get("plans", {}).values()), default=None)
                    print(family, exporter, dtype, row["status"], worst, row.get("reason", ""), flush=True)
                    rows.append(row)
                    record([row], asked.json)
        loads(rows, exports)
        record(rows, asked.json)
    sys.exit(failed)


def record(rows: list[dict[str, Any]], path: Path) -> None:
    """Put cells in the file, in the place of earlier ones."""
    data = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"cells": []}
    found = {(c["family"], c["exporter"], c["dtype"]): c for c in (*data["cells"], *rows)}
    order = {name: i for i, name in enumerate([*TINY, *EXPORTERS])}
    cells = sorted(found.values(), key=lambda c: (order[c["family"]], order[c["exporter"]], c["dtype"]))
    body = {"versions": versions(), "limits": LIMITS, "cells": cells}
    path.write_text(json.dumps(body, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
