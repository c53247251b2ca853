"""LoRA adapters as PEFT writes them, of random numbers, and the models that merging them makes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers.pytorch_utils import Conv1D

LLAMA = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.v_proj", "model.layers.1.mlp.down_proj"]

PLAIN: dict[str, Any] = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "some/base", "r": 4, "lora_alpha": 16,
    "lora_dropout": 0.05, "target_modules": ["q_proj"], "bias": "none", "use_rslora": False, "use_dora": False,
    "fan_in_fan_out": False, "init_lora_weights": True, "modules_to_save": None, "rank_pattern": {},
    "alpha_pattern": {}, "layer_replication": None, "inference_mode": True, "megatron_core": "megatron.core",
    "loftq_config": {}, "qalora_group_size": 16, "peft_version": "0.21.2",
}
Tensors = dict[str, np.ndarray]


def written(folder: Path, tensors: Tensors, **said: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({**PLAIN, **said}))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def pairs(model: torch.nn.Module, modules: list[str], rank: int = 4, seed: int = 0) -> Tensors:
    """Random halves as PEFT names and turns them: A [rank, in], B [out, rank]."""
    random, found = np.random.default_rng(seed), {}
    for name in modules:
        module: Any = model.get_submodule(name)
        n_in, n_out = module.weight.shape if isinstance(module, Conv1D) else module.weight.shape[::-1]
        for half, shape in (("A", (rank, n_in)), ("B", (n_out, rank))):
            found[f"base_model.model.{name}.lora_{half}.weight"] = (
                random.standard_normal(shape) / np.sqrt(shape[1])).astype(np.float32)
    return found


def merged(model: Any, tensors: Tensors, scale: float) -> Any:
    """The model with the products in its weights."""
    whole = copy.deepcopy(model)
    for name in {name.removeprefix("base_model.model.").rpartition(".lora_")[0] for name in tensors}:
        a, b = (tensors[f"base_model.model.{name}.lora_{half}.weight"].astype(np.float64) for half in "AB")
        module, delta = whole.get_submodule(name), torch.from_numpy(scale * (b @ a))
        module.weight.data += (delta.T if isinstance(module, Conv1D) else delta).float()
    return whole
