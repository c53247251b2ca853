"""Program for an interpreter that has optimum-onnx: load bundles with ORTModelForCausalLM, print their greedy tokens.

    python optimum_load.py PROMPTS(JSON) COUNT BUNDLE…    ->    JSON: bundle -> tokens of each, or its error

Prompts go in one batch, short ones padded on the left, as generate() wants them.

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


def tokens(folder: str, prompts: list[list[int]], count: int) -> list[list[int]]:
    """The tokens that follow each prompt, each the likeliest, the cache in use."""
    model = ORTModelForCausalLM.from_pretrained(folder, use_cache=True, local_files_only=True)
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    found = model.generate(ids, attention_mask=mask, max_new_tokens=count, min_new_tokens=count, do_sample=False,
                           num_beams=1, pad_token_id=0)
    return found[:, longest:].tolist()


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
