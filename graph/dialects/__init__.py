"""How each exporter writes a decoder: one file per dialect, one line here.

A dialect only says how things are named. Which values cross from block to block is found by dataflow, and what a weight
is, is proved by its content.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

if not __name__.startswith("foldrank."):
    raise ImportError(f"import foldrank.{__name__}, not {__name__}")


@dataclass(frozen=True)
class Dialect:
    """One exporter's names. Every function answers None (or False) for what it does not know."""

    name: str
    recognizes: Callable[[ir.Model], bool]
    block_of: Callable[[ir.Node], int | None]
    roles_of: Callable[[ir.Node], tuple[str, ...] | None]
    is_buffer: Callable[[str], bool]
    """Whether an initializer is a table (rotary angles) rather than a parameter."""
    interleaves: Callable[[ir.Node], bool] = lambda _node: False
    """Whether a linear holds its roles head by head."""


DIALECTS = (
    "foldrank.graph.dialects.genai:DIALECT",
    "foldrank.graph.dialects.optimum:DIALECT",
    "foldrank.graph.dialects.torch_export:DIALECT",
)
"""Asked in this order; the first that recognizes a model reads it. Where none does, `unnamed` goes by dataflow."""
