"""How far the dense export was proved, in one line: what is the same on every machine."""

from __future__ import annotations

from typing import Any

from foldrank.reporting import figures, lookup


def export_proved(manifest: Any) -> str | None:
    """Of a manifest with `export_proof`; None for one without."""
    if not lookup.pairs(manifest, "export_proof"):
        return None
    if (why := lookup.text(manifest, "export_proof", "reason")) is not None:
        return f"not proved: {why}"
    positions, tokens, tensors = (
        lookup.integer(manifest, "export_proof", key) for key in ("positions", "tokens", "tensors"))
    return (f"proved against PyTorch on {positions} positions, windows up to {tokens} tokens; {tensors} tensors by "
            f"digest{_rounded(manifest)}")


def _rounded(manifest: Any) -> str:
    """Of a graph that came with weights in few bits: what it was proved against, and how far that is from the model."""
    if lookup.text(manifest, "export_proof", "reference") != "dequantised":
        return ""
    count, kl = (lookup.integer(manifest, "export_proof", "rounded_weights"),
                 lookup.number(manifest, "export_proof", "checkpoint_kl_nats"))
    top1 = lookup.number(manifest, "export_proof", "checkpoint_top1")
    return (f"; reference: dequantised, {count} weights of few bits as the graph holds them, which makes a model "
            f"{figures.nats(kl)} from the checkpoint, with {figures.percent(top1)} of its likeliest tokens")
