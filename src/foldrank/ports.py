"""An input or output of a graph, as ONNX Runtime tells of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Port:
    """Shape as declared (numbers, names or None), ONNX Runtime's type name."""

    shape: tuple[int | str | None, ...]
    type: str
