"""lm-eval's ONNX back ends (0.4.13): the log-likelihoods that ONNX Runtime's logits give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from stepping import continued, with_onnxruntime

pytest.importorskip("lm_eval", reason="needs lm-eval: make consumers")
TEXT = "A valve opens. The pump runs."
TOLERANCE_NATS = 1e-3
"""Of some hundred nats: float32 logits, summed over 29 tokens in another order."""


def nats(bundle: Path, ids: list[int]) -> float:
    """Sum of log p of every token but the first."""
    run, shapes = with_onnxruntime(bundle)
    logits = continued(run, shapes, ids[:-1], 1)[1][0].astype(np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return float((shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))[np.arange(len(ids) - 1), ids[1:]].sum())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["genai", "genai-small", "standard", "standard-small"])
@pytest.mark.parametrize("backend", ["onnxruntime_ort:ONNXRuntimeLM", "onnxruntime_genai:ONNXRuntimeGenAILM"])
def test_lm_eval_measures_what_onnx_runtime_gives(backend: str, name: str, bundles: dict[str, Path]) -> None:
    from lm_eval.api.instance import Instance

    module, kind = backend.split(":")
    made = getattr(pytest.importorskip(f"lm_eval.models.{module}"), kind)(pretrained=str(bundles[name]))
    (found,) = made.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (TEXT,), 0)], disable_tqdm=True)
    wanted = nats(bundles[name], [made.prefix_token_id, *made.tok_encode(TEXT)])
    assert abs(found - wanted) < TOLERANCE_NATS < abs(wanted) * 0.01
