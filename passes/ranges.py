"""Numbers that fp16 cannot hold: a plan's arrays are float32, and a cast beyond 65,504 would give infinity.

Knows arrays and dtypes. bf16 reaches as far as float32 does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx_ir as ir

from foldrank.digests import fits
from foldrank.errors import PassRefused
from foldrank.graph.linear.weights import Array

Wanted = tuple[object, Iterable[str], ir.DataType]
"""A part of the model, the names of arrays that are to stand there, and the floats that the graph has there."""


def check_range(made_by: str, wanted: Iterable[Wanted], arrays: Mapping[str, Array]) -> None:
    """Raise PassRefused, for the pass `made_by`, naming every array that the graph's floats cannot hold."""
    if reasons := [f"{where}: {name} does not fit fp16, which ends at 65504" for where, names, dtype in wanted
                   if dtype == ir.DataType.FLOAT16 for name in names if not fits(arrays[name], dtype.numpy())]:
        raise PassRefused(made_by, reasons, "export to fp32 or bf16")
