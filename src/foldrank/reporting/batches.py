"""What a reader must know of batches: on which sides a bundle's rows may be padded."""

from __future__ import annotations

from typing import Any

from foldrank.reporting import lookup


def batches(manifest: Any) -> str | None:
    """One sentence of a manifest with `padding`; None for one that does not tell."""
    sides = lookup.at(manifest, "padding")
    if not isinstance(sides, list):
        return None
    if not sides:
        return "Rows of a batch must have equal lengths: padding changes what this graph computes."
    if len(sides) == 1:
        side, other = ("right", "left") if sides == ["right"] else ("left", "right")
        return f"Pad the rows of a batch on the {side}: padded on the {other} they come out wrong."
    return "Rows of a batch may be padded on the left or on the right, with zeros in the attention mask."
