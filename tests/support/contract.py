"""What is wrong with a bundle folder, by the names, keys and digests that others rely on.

Knows nothing of foldrank: files are read with json, hashlib and onnx alone. Says nothing of quality.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

FILES = ("model.onnx", "genai_config.json", "config.json", "tokenizer.json", "manifest.json", "README.md")
INPUTS = {"input_ids", "attention_mask", "position_ids"}
PLAN = {"schema", "source", "calibration", "steps", "predicted", "versions", "edits"}
EDITS = {
    "fold_blocks": {"into", "blocks", "coefficients", "norms"}, "drop_branch": {"block", "branch"},
    "slice_mlp": {"block", "channels", "bias"}, "replace_weight": {"site", "tensor"},
    "low_rank": {"site", "shape", "rank", "factors"}, "low_rank_table": {"of", "shape", "rank", "factors"},
    "quantize_weight": {"site", "shape", "storage"},
    "quantize_head": {"shape", "storage"}, "quantize_embedding": {"shape", "storage", "head"},
}
VALIDATE = {
    "graph": {"reference", "positions", "max_relative_error", "argmax_agreement", "passed"},
    "quality": {"tokens", "dense_perplexity", "perplexity", "perplexity_ratio", "kl_nats", "top1_agreement",
                "greedy_prefix_tokens"},
}
BENCH = {
    "rows": {"bundle", "provider", "prompt_tokens", "context_tokens", "batch", "ttft_ms", "tpot_ms",
             "decode_tokens_per_s", "bytes_per_token", "bandwidth_use", "peak_rss_bytes", "placement"},
    "speedups": {"phase", "ratio", "ci95", "ideal", "realised_over_ideal"},
}


def faults(folder: Path) -> list[str]:
    """Everything in which the folder is not a bundle; empty for one that is."""
    if absent := [name for name in FILES if not (folder / name).is_file()]:
        return [f"{name}: missing" for name in absent]
    found = [*_listed(folder), *_ports(folder)]
    checks = {"plan/plan.json": _plan, "reports/validate.json": _validate, "reports/bench.json": _bench}
    for name, check in checks.items():
        if (folder / name).is_file():
            found += (f"{name}: {fault}" for fault in check(_json(folder / name)))
    return found


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _listed(folder: Path) -> Iterator[str]:
    """The manifest names every file but itself, with its size and digest."""
    listed = _json(folder / "manifest.json")["files"]
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {"manifest.json"}
    yield from (f"manifest.json: {name} is listed or there, not both" for name in sorted(there ^ set(listed)))
    for name in sorted(there & set(listed)):
        data = (folder / name).read_bytes()
        if listed[name] != {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}:
            yield f"manifest.json: {name} is listed otherwise"


def _ports(folder: Path) -> Iterator[str]:
    """KV pairs are numbered without a gap, as many as genai is told; no block has two."""
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    inputs, outputs = ({port.name for port in ports} for ports in (graph.input, graph.output))
    pairs = _json(folder / "genai_config.json")["model"]["decoder"]["num_hidden_layers"]
    cache = {f"{i}.{part}" for i in range(pairs) for part in ("key", "value")}
    if not inputs - {f"past_key_values.{name}" for name in cache} <= INPUTS:
        yield "model.onnx: inputs besides tokens, mask, positions and the cache that genai is told of"
    if not {f"past_key_values.{name}" for name in cache} <= inputs:
        yield "model.onnx: fewer cache inputs than genai is told of"
    if outputs != {"logits", *(f"present.{name}" for name in cache)}:
        yield "model.onnx: outputs are not logits and one for each cache input"
    config = _json(folder / "config.json")
    if pairs > config.get("num_hidden_layers", config.get("n_layer", 0)):
        yield "config.json: fewer blocks than KV pairs"


def _plan(data: dict[str, Any]) -> Iterator[str]:
    yield from _lacks("it", data, PLAN)
    for i, edit in enumerate(data["edits"]):
        yield from _lacks(f"edit {i}", edit, EDITS.get(edit["kind"], {"a known kind"}))
        if not re.fullmatch(r"block\.\d{2,}\.\w+", edit.get("site", "block.00.q")):
            yield f"edit {i} has site {edit['site']!r}"


def _validate(data: dict[str, Any]) -> Iterator[str]:
    for part, keys in VALIDATE.items():
        yield from _lacks(part, data[part], keys)
    if data["verdict"] not in ("pass", "fail") or not isinstance(data["gates"], list):
        yield "no verdict, or no gates"


def _bench(data: dict[str, Any]) -> Iterator[str]:
    yield from _lacks("it", data, {"environment", "null_test", *BENCH})
    for part, keys in BENCH.items():
        for i, row in enumerate(data[part]):
            yield from _lacks(f"{part}[{i}]", row, keys)


def _lacks(what: str, data: dict[str, Any], keys: set[str]) -> Iterator[str]:
    if missing := sorted(keys - data.keys()):
        yield f"{what} lacks {', '.join(missing)}"
