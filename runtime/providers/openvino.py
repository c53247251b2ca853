"""OpenVINO's plugin: computes a graph in the numbers it is written in, with as many threads as were asked for.

Left alone OpenVINO takes bfloat16 or half precision where the processor is faster in it, rounds activations beside
weights in few bits, and takes all cores (OpenVINO, "Precision Control" and "CPU Device"). The plugin has no options for
that, but `load_config`, JSON by device.
"""

from __future__ import annotations

import json
from dataclasses import replace

from foldrank.runtime.providers.plugins import DEVICE, FIRST
from foldrank.runtime.providers.provider import Provider

CONFIG = "load_config"
_AS_WRITTEN = {"INFERENCE_PRECISION_HINT": "f32"}
_ON_CPU = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}


def prepared(provider: Provider, threads: int) -> Provider:
    """The provider with the options that a session is given; a `load_config` of the user's stays as it is. An NPU has
    numbers of its own, of which nothing is asked."""
    kind = provider.options.get(DEVICE, FIRST[provider.short]).lower()
    if CONFIG in provider.options or kind not in ("cpu", "gpu"):
        return provider
    asked = {**_AS_WRITTEN, **({**_ON_CPU, "INFERENCE_NUM_THREADS": str(threads)} if kind == "cpu" else {})}
    return replace(provider, options={**provider.options, CONFIG: json.dumps({kind.upper(): asked}, sort_keys=True)})
