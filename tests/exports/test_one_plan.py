"""One plan, computed once on a checkpoint, applied to what three exporters made of it: three bundles, one function."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from foldrank.edits.fold_blocks import FoldBlocks
from foldrank.edits.low_rank import LowRank
from foldrank.runtime.decoding.decoder import OrtDecoder
from foldrank.runtime.providers.provider import resolve
from foldrank.verbs.apply import apply
from foldrank.verbs.export import export
from foldrank.verbs.plan import plan

CLOSE = 1e-4
"""Of the largest logit, as the graph proof."""
METHODS = ["slm:keep=0.84,windows=2,tokens=128", "dipsvd:keep=0.6,align=1,ratios=uniform"]


def logits(bundle: Path, ids: np.ndarray) -> np.ndarray:
    """Half of the tokens at once, the rest one by one."""
    decoder = OrtDecoder.open(bundle, resolve("cpu"), threads=1)
    half = ids.shape[1] // 2
    return np.concatenate([decoder.prefill(ids[:, :half]), *(decoder.step(ids[:, [i]]) for i in range(half, 2 * half))],
                          axis=1)


@pytest.mark.slow
def test_one_plan_fits_every_export_of_its_checkpoint(tiny_models: Path, traced_llama: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("onnxruntime_genai") is None:
        pytest.skip("needs onnxruntime-genai")
    tiny = tiny_models / "llama"
    checkpoint = tiny / "checkpoint"
    once = plan(checkpoint, methods=METHODS, calibration_tokens=2048)
    assert once.of(FoldBlocks)
    assert {role for pair in once.of(LowRank) for role in pair.site.roles} == {"q", "k", "v", "o", "gate", "up", "down"}
    dense = {
        "genai": export(checkpoint, tmp_path / "genai", exporter="genai").path,
        "transformers": traced_llama,
        "optimum": export(checkpoint, tmp_path / "optimum", exporter="optimum", graph=tiny / "optimum").path,
    }
    ids = np.random.default_rng(6).integers(3, 250, (2, 40))
    found = {name: logits(apply(path, once, tmp_path / f"{name}-small").path, ids) for name, path in dense.items()}
    before = logits(dense["genai"], ids)
    largest = np.abs(found["genai"]).max()
    assert np.abs(before - found["genai"]).max() > 0.1 * largest  # the plan does change the model
    for name in ("transformers", "optimum"):
        assert np.abs(found[name] - found["genai"]).max() < CLOSE * largest, name
        assert (found[name].argmax(-1) == found["genai"].argmax(-1)).all()
