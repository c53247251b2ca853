"""Program for an interpreter that has optimum-onnx: load bundles with ORTModelForCausalLM, print their greedy tokens.

    python tests/optimum_load.py PROMPT_IDS(JSON) COUNT BUNDLE…    ->    one JSON object: bundle -> tokens, or its error

Knows nothing of foldrank.
"""

from __future__ import annotations

import json
import sys

import torch
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel
from optimum.onnxruntime import ORTModelForCausalLM

_FAULTS = (ValueError, RuntimeError, OSError, KeyError, TypeError, AttributeError, Fail, InvalidArgument, NoKernel)


def tokens(folder: str, prompt: list[int], count: int) -> list[int]:
    """The tokens that follow the prompt, each the likeliest, the cache in use."""
    model = ORTModelForCausalLM.from_pretrained(folder, use_cache=True, local_files_only=True)
    ids = torch.tensor([prompt])
    found = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, min_new_tokens=count,
                           do_sample=False, num_beams=1, pad_token_id=0)
    return found[0, len(prompt):].tolist()


def main() -> None:
    """Load one after the other; an error of one is its result."""
    prompt, count, *folders = sys.argv[1:]
    results: dict[str, object] = {}
    for folder in folders:
        try:
            results[folder] = tokens(folder, json.loads(prompt), int(count))
        except _FAULTS as error:
            results[folder] = f"{type(error).__name__}: {error}"
    print(json.dumps(results))


if __name__ == "__main__":
    main()
