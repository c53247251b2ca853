"""Who loads a bundle: optimum's ORTModelForCausalLM (in an environment of its own), onnxruntime-genai, foldrank itself.

From three exporters, dense and compressed, all continue a prompt with the same tokens.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from consumers import genai_tokens, optimum_python, optimum_tokens, own_tokens

from foldrank.verbs.apply import apply
from foldrank.verbs.export import export
from foldrank.verbs.plan import plan

METHODS = ["slm:keep=0.84,windows=2,tokens=128", "dipsvd:keep=0.7,align=1,ratios=uniform"]


@pytest.mark.slow
def test_three_consumers_say_the_same_of_three_exporters_bundles_dense_and_compressed(
    shared: Path, traced_llama: Path, tmp_path: Path
) -> None:
    if (python := optimum_python()) is None:
        pytest.skip("no environment with optimum-onnx: make optimum-env")
    if importlib.util.find_spec("onnxruntime_genai") is None:
        pytest.skip("needs onnxruntime-genai")
    tiny = shared / "fixtures" / "tiny" / "llama"
    dense = {
        "genai": export(tiny / "checkpoint", tmp_path / "genai", exporter="genai").path,
        "transformers": traced_llama,
        "optimum": export(tiny / "checkpoint", tmp_path / "optimum", exporter="optimum", graph=tiny / "optimum").path,
    }
    once = plan(tiny / "checkpoint", methods=METHODS, calibration_tokens=1024)
    small = {name: apply(path, once, tmp_path / f"{name}-small").path for name, path in dense.items()}
    theirs = optimum_tokens(python, [*dense.values(), *small.values()])
    said = []
    for bundles in (dense, small):
        wanted = own_tokens(bundles["genai"])
        said.append(wanted)
        for name, bundle in bundles.items():
            assert own_tokens(bundle) == wanted, name
            assert genai_tokens(bundle) == wanted, name
            assert theirs[bundle] == wanted, name
    assert said[0] != said[1]
