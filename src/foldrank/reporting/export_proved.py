"""How far the dense export was proved, in one line: what is the same on every machine."""

from __future__ import annotations

from typing import Any

from foldrank.reporting import lookup


def export_proved(manifest: Any) -> str | None:
    """Of a manifest with `export_proof`; None for one without."""
    if not lookup.pairs(manifest, "export_proof"):
        return None
    if (why := lookup.text(manifest, "export_proof", "reason")) is not None:
        return f"not proved: {why}"
    positions, tokens, tensors = (
        lookup.integer(manifest, "export_proof", key) for key in ("positions", "tokens", "tensors"))
    return (f"proved against PyTorch on {positions} positions, windows up to {tokens} tokens; {tensors} tensors by "
            f"digest")
