"""In which arithmetic a graph is judged: its own, and in float32 on the CPU where its own is coarser.

One place for proof and self-test. float32 tells whether the graph's weights and operators are right, to a hundredth of
a percent; its own arithmetic whether the kernels that will run it work.
"""

from __future__ import annotations

from dataclasses import dataclass

from foldrank.runtime.decoding.decoder import OrtDecoder
from foldrank.runtime.proof.graph_proof import Beside
from foldrank.runtime.providers.provider import Provider, resolve
from foldrank.tolerances import INT8


@dataclass(frozen=True)
class Ways:
    """What is asked everything, in which precision, and what stands beside it; `described` goes behind the reference's
    name."""

    decoder: OrtDecoder
    precision: str
    beside: Beside | None = None
    described: str = ""


def ways_of(decoder: OrtDecoder, precision: str) -> Ways:
    """For a graph that was opened as it is and computes in that precision (fp32, fp16, bf16, int8). A graph that rounds
    activations is judged without: how far that moves logits depends on the model."""
    session = decoder.session
    own = precision_on(session.provider, precision)
    if own == "fp32":
        return Ways(decoder, own)
    exact = OrtDecoder.open(session.model.parent, resolve("cpu"), threads=session.threads, spinning="in_runs",
                            rounds=False)
    if own == INT8:
        return Ways(exact, "fp32", Beside("rounded", decoder, own), ", activations not rounded")
    return Ways(decoder, own, Beside("in_float32", exact, "fp32"))


def precision_on(provider: Provider, precision: str) -> str:
    """What a provider computes a graph of that precision in: fp32 products on a GPU are TF32 unless that is turned off,
    with as many bits as fp16."""
    off = provider.options.get("use_tf32", "1") in ("0", "false", "False")
    return "fp16" if precision == "fp32" and provider.processor == "nvidia" and not off else precision
