"""OpenVINO on a CPU: the same logits and, with the cache, the same tokens as ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from continued import COUNT, PROMPT
from stepping import TOLERANCE, continued, error, with_onnxruntime

openvino = pytest.importorskip("openvino", reason="needs openvino: make consumers")


AS_THEY_ARE = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
"""Activations, also where weights are in few bits."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["genai", "genai-small", "standard", "standard-small"])
def test_openvino_computes_what_onnx_runtime_does(name: str, bundles: dict[str, Path]) -> None:
    compare(bundles[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["genai", "standard"])
def test_openvino_computes_few_bits_as_standard_operators(name: str, in_few_bits: dict[str, Path]) -> None:
    """Blocks, head and table of words."""
    compare(in_few_bits[name])


def compare(bundle: Path) -> None:
    compiled = openvino.Core().compile_model(bundle / "model.onnx", "CPU", AS_THEY_ARE)
    outputs = [port.get_any_name() for port in compiled.outputs]

    def run(feeds: dict[str, np.ndarray]) -> dict[str, Any]:
        found = compiled(feeds)
        return {key: np.array(found[key]) for key in outputs}

    own, shapes = with_onnxruntime(bundle)
    wanted, logits = continued(own, shapes, PROMPT, COUNT)
    tokens, found = continued(run, shapes, PROMPT, COUNT)
    assert error(logits, found) < TOLERANCE < error(logits, logits * 1.01)
    assert tokens == wanted
