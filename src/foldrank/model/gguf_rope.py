"""Llama 3's scaled positions: a GGUF file holds what they come to, a factor for every pair of a head's axes.

The four numbers of transformers' `rope_type: llama3` are told from the factors and proved by making them anew.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from foldrank.model.gguf_header import Header

NAME = "rope_freqs.weight"
_LOW, _HIGH, _CONTEXT = 1.0, 4.0, 8192
"""As in every Llama 3.1, 3.2 and 3.3; models differ in the factor."""

_DEFAULT_BASE = 10000.0


def scaled(file: Path, header: Header) -> dict[str, Any] | None:
    """What config.json says of the positions of this file; None where they are not scaled. Raises ValueError where they
    are, in a way that is not Llama 3's."""
    if (tensor := header.tensors.get(NAME)) is None:
        return None
    base = header.values.get("llama.rope.freq_base", _DEFAULT_BASE)
    factors_P = np.fromfile(file, "<f4", tensor.shape[0], offset=tensor.start)
    factor = float(factors_P.max())
    if not isinstance(base, float) or not np.allclose(factors_P, factors(len(factors_P), base, factor), rtol=1e-4):
        raise ValueError("its positions are scaled in a way that is not Llama 3's")
    return {"rope_type": "llama3", "rope_theta": base, "factor": factor, "low_freq_factor": _LOW,
            "high_freq_factor": _HIGH, "original_max_position_embeddings": _CONTEXT}


def factors(pairs: int, base: float, factor: float) -> np.ndarray:
    """What llama.cpp's convert_hf_to_gguf.py writes for heads of so many pairs [P]: 1 for waves shorter than a quarter
    of the context that the model was first trained at, `factor` for those longer than it, between them what is smooth.
    """
    waves_P = 2 * math.pi * base ** (np.arange(pairs) / pairs)
    smooth_P = np.clip((_CONTEXT / waves_P - _LOW) / (_HIGH - _LOW), 0.0, 1.0)
    found: np.ndarray = 1.0 / ((1.0 - smooth_P) / factor + smooth_P)
    return found
