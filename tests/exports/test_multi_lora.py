"""package --format multi-lora: on one graph onnxruntime-genai exchanges adapters, each as if merged, and none is the
base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lora import merged, pairs, written

from foldrank.model.checkpoint import Checkpoint
from foldrank.plans.models.decoder import load_decoder
from foldrank.verbs.apply import apply
from foldrank.verbs.package import package
from foldrank.verbs.plan import plan

MODULES = [f"model.layers.{block}.{path}" for block, path in ((0, "self_attn.v_proj"), (7, "mlp.down_proj"))]
IDS = np.random.default_rng(5).integers(3, 250, 12)


@pytest.mark.slow
def test_adapters_of_any_rank_are_exchanged_on_one_graph(specs_5m: Path, dense_5m: Path, tmp_path: Path) -> None:
    og = pytest.importorskip("onnxruntime_genai")
    model = load_decoder(Checkpoint.open(specs_5m)).model.float()
    wanted = {"": model}
    for name, rank in (("one", 4), ("two", 6)):
        tensors = pairs(model, MODULES, rank, seed=rank)
        path = written(tmp_path / name, tensors)
        made = plan(specs_5m, methods=[f"adapter:path={path}"], calibration_tokens=64)
        apply(dense_5m, made, tmp_path / f"with-{name}")
        package(tmp_path / f"with-{name}", tmp_path / f"swap-{name}", format="multi-lora")
        wanted[name] = merged(model, tensors, 16 / rank)
    library = og.Model(str(tmp_path / "swap-one"))
    adapters = og.Adapters(library)
    for name in ("one", "two"):
        adapters.load(str(tmp_path / f"swap-{name}" / "adapter.onnx_adapter"), name)
    found = {name: logits(og, library, adapters, name) for name in ("one", "two", "", "one")}
    for name, reference in wanted.items():
        with torch.no_grad():
            there = reference(input_ids=torch.from_numpy(IDS)[None]).logits[0, -1].numpy()
        assert np.abs(found[name] - there).max() <= 1e-4 * np.abs(there).max(), name
    assert np.abs(found["one"] - found["two"]).max() > 1e-2


def logits(og: Any, model: Any, adapters: Any, name: str) -> np.ndarray:
    """Of the last token; "" is none."""
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=len(IDS) + 1)
    generator = og.Generator(model, parameters)
    if name:
        generator.set_active_adapter(adapters, name)
    generator.append_tokens(IDS.astype(np.int32))
    return np.array(generator.get_logits())[0, -1]
