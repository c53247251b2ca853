"""A few greedy tokens by onnxruntime-genai itself, as a user runs the bundle: each must be ONNX Runtime's likeliest.

What it is told (heads, cache, names, positions) is believed by nobody else here, so nothing else would notice.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import numpy as np

from foldrank.reports.validate import Check
from foldrank.runtime.decoding.decoder import OrtDecoder, Tokens
from foldrank.runtime.decoding.genai import OFFERED, GenaiDecoder
from foldrank.tolerances import GRAPH_PROOF_MOST, GREEDY_TIE

_PROMPT, _TOKENS = 16, 8


def offered(decoder: OrtDecoder) -> bool:
    """Whether the library is installed and runs on the decoder's provider."""
    return decoder.session.provider.short in OFFERED and importlib.util.find_spec("onnxruntime_genai") is not None


def greedy(decoder: OrtDecoder, ids_T: Tokens, ends: Sequence[int], *, coarse: bool) -> Check:
    """On the first of these tokens. `decoder`: the bundle, as it is, on the provider; `ends` of text are never chosen.
    `coarse`: whether one run and several may differ by more than float32's noise. Raises SourceError where the library
    cannot load the bundle."""
    session, prompt = decoder.session, ids_T[None, :_PROMPT]
    library = GenaiDecoder.open(session.model.parent, session.provider, capacity=prompt.shape[1] + _TOKENS,
                                threads=session.threads, spinning="in_runs")
    chosen_1T = library.generate(prompt, _TOKENS)
    told_1TV = decoder.prefill(np.concatenate([prompt, chosen_1T[:, :-1]], axis=1))[:, prompt.shape[1] - 1 :].copy()
    largest = float(np.abs(told_1TV).max())
    told_1TV[..., [end for end in ends if 0 <= end < told_1TV.shape[-1]]] = -np.inf
    gaps_T = told_1TV.max(-1)[0] - np.take_along_axis(told_1TV, chosen_1T[..., None], -1)[0, :, 0]
    limit, value = GREEDY_TIE if coarse else GRAPH_PROOF_MOST, float(gaps_T.max() / largest)
    return Check(name="genai_greedy", positions=_TOKENS, value=value, limit=limit, measure="max_relative_error",
                 argmax_agreement=float((gaps_T <= limit * largest).mean()), passed=value <= limit)
