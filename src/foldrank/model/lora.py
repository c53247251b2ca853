"""A LoRA adapter as PEFT writes it: the pair beside each module that it changes, y = x W + (x A) B.

Read by hand: adapter_config.json and the header of adapter_model.safetensors; no pickle, no code. Whatever is not plain
LoRA (weights that are normed anew, tables, biases, modules saved whole, bases that were changed at the start) is
refused by name. Source: peft 0.21, tuners/lora/layer.py (`get_delta_weight`, `update_layer`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from foldrank import strictjson
from foldrank.errors import CheckpointRefused, SourceError
from foldrank.model.tensorfile import StoredTensor, read_header

Array = np.ndarray[Any, np.dtype[np.float32]]
Pairs = Mapping[str, tuple[Array, Array]]
"""A [in, rank], times what the adapter scales it by, and B [rank, out], float32, by the base's module."""

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_MERGE = "merge it into its base with peft and give the merged model"
_TENSOR = re.compile(r"base_model\.model\.(.+)\.lora_(A|B)\.weight")
_PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
"""Ways to begin (`init_lora_weights`) that leave the base as it is."""
_NO_MATTER = frozenset({
    "peft_type", "base_model_name_or_path", "revision", "task_type", "inference_mode", "auto_mapping", "peft_version",
    "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "init_lora_weights", "target_modules",
    "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout", "fan_in_fan_out", "bias",
    "megatron_core", "qalora_group_size", "runtime_config", "eva_config", "loftq_config",
})
"""What a config says that is read here, that the tensors tell themselves, or that mattered in training alone."""


def read_lora(folder: Path) -> Pairs:
    """The adapter's pairs. Raises SourceError where a file is not there or broken, or where it is not plain LoRA."""
    said = _config(folder / CONFIG)
    path = folder / WEIGHTS
    if not path.is_file():
        raise SourceError(path, "no such file", "give an adapter saved with safetensors")
    halves: dict[str, dict[str, StoredTensor]] = {}
    for name, tensor in read_header(path).items():
        match = _TENSOR.fullmatch(name)
        if match is None or len(tensor.shape) != 2:
            raise SourceError(path, f"{name} is no matrix of a plain LoRA pair", _MERGE)
        halves.setdefault(match.group(1), {})[match.group(2)] = tensor
    if not halves:
        raise SourceError(path, "holds no pair", "fetch the adapter again")
    return {module: _pair(path, module, found, said) for module, found in halves.items()}


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise SourceError(path, "no such file", "give the folder of a LoRA adapter")
    try:
        said = strictjson.read(path)
    except (OSError, strictjson.JsonError) as error:
        raise SourceError(path, str(error), "fetch the adapter again") from None
    if not isinstance(said, dict):
        raise SourceError(path, "holds no object", "fetch the adapter again")
    if odd := next(_oddities(said), None):
        raise SourceError(path, f"is not plain LoRA: {odd}", _MERGE)
    return said


def _oddities(said: Mapping[str, Any]) -> Iterator[str]:
    """What a config says that a pair beside a weight is not."""
    if said.get("peft_type") != "LORA":
        yield f"peft_type is {said.get('peft_type')}"
    if said.get("bias", "none") != "none":
        yield f"bias is {said['bias']}"
    if said.get("init_lora_weights") not in _PLAIN_STARTS:
        yield f"init_lora_weights is {said['init_lora_weights']}, which changes the base"
    yield from (f"{key} is {_shown(value)}" for key, value in said.items() if value and key not in _NO_MATTER)


def _shown(value: Any) -> str:
    return strictjson.dumps(value).strip()[:80]


def _pair(path: Path, module: str, found: Mapping[str, StoredTensor], said: Mapping[str, Any]) -> tuple[Array, Array]:
    if found.keys() != {"A", "B"} or found["A"].shape[0] != found["B"].shape[1] or not found["A"].shape[0]:
        shapes = {name: list(tensor.shape) for name, tensor in found.items()}
        raise CheckpointRefused(path, f"{module} has no pair that fits: {shapes}", "fetch the adapter again")
    a_RI, b_OR = (_read(found[half]) for half in "AB")
    scale = _scale(path.parent / CONFIG, module, len(a_RI), said)
    a, b = np.ascontiguousarray(a_RI.T) * np.float32(scale), np.ascontiguousarray(b_OR.T)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise CheckpointRefused(path, f"{module} holds NaN or infinity", "fetch the adapter again")
    return a, b


def _scale(path: Path, module: str, rank: int, said: Mapping[str, Any]) -> float:
    """alpha / rank, or alpha / sqrt(rank); alpha by the first name in `alpha_pattern` that the module ends in."""
    patterns = said.get("alpha_pattern") or {}
    if odd := [name for name in patterns if not re.fullmatch(r"[\w.]+", name)]:
        raise SourceError(path, f"alpha_pattern has {odd[0]!r}, which is no plain name", _MERGE)
    alpha = next((alpha for name, alpha in patterns.items() if f".{module}".endswith(f".{name}")),
                 said.get("lora_alpha", 8))
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise SourceError(path, f"lora_alpha is {alpha!r}", "fetch the adapter again")
    return alpha / (math.sqrt(rank) if said.get("use_rslora") else rank)


def _read(tensor: StoredTensor) -> Array:
    """Its numbers, float32."""
    with tensor.path.open("rb") as file:
        file.seek(tensor.start)
        flat = np.fromfile(file, dtype=tensor.dtype, count=tensor.size)
    return flat.reshape(tensor.shape).astype(np.float32)
