"""A greedy continuation with the cache through any runtime that takes feeds by name, and how two logits differ."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

Feeds = dict[str, np.ndarray]
Run = Callable[[Feeds], Mapping[str, np.ndarray]]
TOLERANCE = 1e-5
"""Of the largest logit: float32 through some six blocks, summed in another order."""


def with_onnxruntime(bundle: Path) -> tuple[Run, dict[str, Sequence[Any]]]:
    """ONNX Runtime itself, activations as they are, and the shape of every input."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
    session = ort.InferenceSession(str(bundle / "model.onnx"), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return (lambda feeds: dict(zip(names, session.run(names, feeds), strict=True)),
            {i.name: i.shape for i in session.get_inputs()})


def continued(run: Run, shapes: Mapping[str, Sequence[Any]], prompt: Sequence[int], count: int) -> tuple[
    list[int], np.ndarray
]:
    """The likeliest tokens after the prompt, one at a time, and the prompt's logits [1, T, V]."""
    cache = {name: np.zeros((1, s[1], 0, s[3]), np.float32) for name, s in shapes.items() if name.startswith("past")}
    ids, seen, tokens, first = list(prompt), 0, [], None
    for _ in range(count):
        seen += len(ids)
        feeds = {"input_ids": np.array([ids], np.int64), "attention_mask": np.ones((1, seen), np.int64), **cache}
        if "position_ids" in shapes:
            feeds["position_ids"] = np.arange(seen - len(ids), seen, dtype=np.int64)[None]
        found = run(feeds)
        first = found["logits"] if first is None else first
        cache = {name: found[name.replace("past_key_values", "present")] for name in cache}
        ids = [int(found["logits"][0, -1].argmax())]
        tokens += ids
    assert first is not None
    return tokens, first


def error(wanted: np.ndarray, found: np.ndarray) -> float:
    """Largest difference, of the largest logit."""
    return float(np.abs(wanted.astype(np.float64) - found).max() / np.abs(wanted).max())


def in_node(program: str, modules: Path, *arguments: str) -> Any:
    """The last line that a program beside this file prints, as JSON. Its packages come from `modules`."""
    command = ["node", str(Path(__file__).parent / program), str(modules), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])
