"""OpenVINO on a CPU: the same logits and, with the cache, the same tokens as ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from continued import COUNT, PROMPT
from stepping import TOLERANCE, continued, error, with_onnxruntime

openvino = pytest.importorskip("openvino", reason="needs openvino: make consumers")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["genai", "genai-small", "standard", "standard-small"])
def test_openvino_computes_what_onnx_runtime_does(name: str, bundles: dict[str, Path]) -> None:
    compiled = openvino.Core().compile_model(bundles[name] / "model.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    outputs = [port.get_any_name() for port in compiled.outputs]

    def run(feeds: dict[str, np.ndarray]) -> dict[str, Any]:
        found = compiled(feeds)
        return {key: np.array(found[key]) for key in outputs}

    own, shapes = with_onnxruntime(bundles[name])
    wanted, logits = continued(own, shapes, PROMPT, COUNT)
    tokens, found = continued(run, shapes, PROMPT, COUNT)
    assert error(logits, found) < TOLERANCE < error(logits, logits * 1.01)
    assert tokens == wanted
