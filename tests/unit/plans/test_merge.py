"""merge: whatever comes behind it does to the checkpoint what it would do to the merged model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lora import LLAMA, merged, pairs, written
from tiny_families import TINY, random_model, save

from foldrank.edits.replace_weight import ReplaceWeight
from foldrank.errors import SourceError
from foldrank.model.checkpoint import Checkpoint
from foldrank.planfile.plan import Plan
from foldrank.plans.calibration import calibration_windows
from foldrank.plans.compose import parse_all, plan_of, run_all
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.reference import reference_model
from foldrank.plans.training.recovery import Training, recover

MODULES = {
    "llama": [*LLAMA, *(f"model.layers.{number}.mlp.up_proj" for number in range(2, 6))],
    "phi3": ["model.layers.0.self_attn.qkv_proj", "model.layers.1.mlp.gate_up_proj"],
    "gpt2": ["transformer.h.0.attn.c_attn", "transformer.h.1.mlp.c_proj"],
    "gptneox": ["gpt_neox.layers.1.attention.query_key_value", "gpt_neox.layers.0.mlp.dense_h_to_4h"],
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    return {}


def both(family: str, known: dict[str, Checkpoint], folder: Path) -> tuple[Checkpoint, str, Any]:
    """The checkpoint, its adapter as a request, and the merged model in the place of both."""
    if family not in known:
        known[family] = Checkpoint.open(save(TINY[family], folder / family))
    model = random_model(TINY[family])
    tensors = pairs(model, MODULES[family])
    return known[family], f"merge:path={written(folder / 'adapter', tensors)}", merged(model, tensors, 16 / 4)


@pytest.mark.parametrize(("family", "methods", "left"), [
    ("llama", ["slm:blocks=4,windows=1,tokens=64"], None),
    ("llama", ["llm_drop:branches=11,which=mlp", "width:keep=0.9,refit=false,align=8"], None),
    ("llama", ["rotate", "quantize:block_size=16,rounding=nearest"],
     ["block.00.q", "block.01.v", "block.01.down", *(f"block.0{number}.up" for number in range(2, 6))]),
    ("phi3", ["dipsvd:keep=0.7,align=1,ratios=uniform"], []),
    ("gpt2", [], ["block.00.qkv", "block.01.down"]),
    ("gptneox", [], ["block.00.up", "block.01.qkv"]),
])
def test_methods_behind_it_do_what_they_do_to_the_merged_model(
    family: str, methods: list[str], left: list[str] | None, checkpoints: dict[str, Checkpoint], tmp_path: Path
) -> None:
    checkpoint, merge, model = both(family, checkpoints, tmp_path)
    windows = calibration_windows(checkpoint, None, 128, 0)
    decoder, ids = Decoder.of(random_model(TINY[family])), torch.arange(24)[None]
    plan = plan_of(checkpoint, decoder, windows, run_all(decoder, parse_all([merge, *methods]), windows.ids, 0))
    plan.write(tmp_path)
    kept = [str(edit.site) for edit in Plan.read(tmp_path).of(ReplaceWeight) if edit.tensor.endswith(".merged")]
    assert left is None or kept == left
    wanted = Decoder.of(model)
    if methods:
        wanted = run_all(wanted, parse_all(methods), windows.ids, 0)[-1].result.decoder
    with torch.no_grad():
        there = wanted.logits(wanted.forward(ids.numpy()))
        found = reference_model(checkpoint, plan)(input_ids=ids).logits
        dense = decoder.logits(decoder.forward(ids.numpy()))
    assert (found - there).abs().max() <= 1e-4 * there.abs().max()
    assert (dense - there).abs().max() > 1e-2


def test_biases_of_norms_through_what_it_changed_are_refused(
    checkpoints: dict[str, Checkpoint], tmp_path: Path
) -> None:
    _, merge, _ = both("gpt2", checkpoints, tmp_path)
    decoder = Decoder.of(random_model(TINY["gpt2"]))
    with pytest.raises(SourceError, match=r"block 0: merge changes weights that .* into attn\.c_attn\.bias"):
        run_all(decoder, parse_all([merge, "pre_rmsnorm", "rotate"]), torch.arange(24)[None].numpy(), 0)


def test_it_comes_first_and_is_not_recovered_from(checkpoints: dict[str, Checkpoint], tmp_path: Path) -> None:
    checkpoint, merge, _ = both("llama", checkpoints, tmp_path)
    with pytest.raises(ValueError, match="merge comes first"):
        parse_all(["shortgpt:blocks=5", merge])
    decoder, windows = Decoder.of(random_model(TINY["llama"])), calibration_windows(checkpoint, None, 512, 0)
    plan = plan_of(checkpoint, decoder, windows, run_all(decoder, parse_all([merge]), windows.ids, 0))
    with pytest.raises(ValueError, match="without the adapter that merge put into it"):
        recover(decoder, plan, windows.ids, Training("lora", steps=1))
    with pytest.raises(SourceError, match="no such file"):
        run_all(decoder, parse_all(["merge:path=nowhere"]), windows.ids, 0)
