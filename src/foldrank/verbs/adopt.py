"""Adopt a graph that some exporter made earlier: read safely, proved to be the checkpoint's, written as a bundle's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from foldrank.bundle.bundle import FileEntry
from foldrank.digests import DTYPES, cast
from foldrank.errors import ExportError, SourceError
from foldrank.export.genai import check_windows, correct_scale
from foldrank.export.ports import common_ports
from foldrank.export.standard import MODEL, finish
from foldrank.graph.identify import refuse_others
from foldrank.graph.linear.head import lookups
from foldrank.graph.linear.tables import table_of
from foldrank.graph.safe.load import load_model
from foldrank.graph.view.dequantized import rounded_linears
from foldrank.model.checkpoint import Checkpoint
from foldrank.model.tied import embedding_table
from foldrank.passes.write import write_model
from foldrank.progress import SILENT, Progress

_NAMES = (MODEL, "decode.onnx")
"""What exporters call the graph with cache: optimum and torch, transformers."""


def adopt(
    graph: Path, checkpoint: Checkpoint, folder: Path, *, dtype: str, provider: str, progress: Progress = SILENT
) -> dict[str, FileEntry]:
    """Fill an empty folder with everything but card and manifest, from an .onnx file or its folder.

    Gives the entries of files that were digested. Raises SourceError (no file), UnsafeModel, ExportError (not a
    decoder's graph of standard operators, or of another checkpoint, or of another dtype).
    """
    path = _graph_file(graph)
    model = load_model(path)
    refuse_others(model, path)
    fused = any(node.op_type == "GroupQueryAttention" for node in model.graph)
    if fused and not rounded_linears(model):
        raise ExportError(path, "is a graph with GroupQueryAttention", "--exporter genai makes that bundle itself")
    ports = common_ports(model, checkpoint, dtype=dtype)
    if any(node.op_type == "GatherBlockQuantized" or table_of(node) is not None for node in lookups(model.graph)):
        raise ExportError(path, "holds its token embedding in few bits, which is not read",
                          "quantise again without the embedding")
    if not _holds_embedding(model, checkpoint, dtype):
        raise ExportError(path, f"does not hold the token embedding of {checkpoint.name}",
                          "give the checkpoint that it was made from")
    write_model(model, folder, progress)
    if fused:
        correct_scale(folder / MODEL, checkpoint)
        check_windows(folder / MODEL, checkpoint)
    return finish(folder, checkpoint, ports, provider, shared_cache=fused)


def _graph_file(path: Path) -> Path:
    if path.is_file():
        return path
    found = [path / name for name in _NAMES if (path / name).is_file()]
    if not found:
        raise SourceError(path, f"is no .onnx file and no folder with {' or '.join(_NAMES)}", "give the graph's file")
    return found[0]


def _holds_embedding(model: ir.Model, checkpoint: Checkpoint, dtype: str) -> bool:
    """Whether an initializer is the checkpoint's embedding table, bit for bit after rounding to the graph's dtype."""
    table = embedding_table(checkpoint.tensors)
    if table is None:
        return False
    count = (table.end - table.start) // table.dtype.itemsize
    stored = np.fromfile(table.path, table.dtype, count, offset=table.start).reshape(table.shape)
    wanted: np.ndarray[Any, Any] = cast(stored, DTYPES[dtype])
    for value in model.graph.initializers.values():
        held = value.const_value
        if held is None or tuple(held.shape.numpy()) not in (wanted.shape, wanted.shape[::-1]):
            continue
        array = held.numpy()
        if array.dtype == wanted.dtype and (
            np.array_equal(array, wanted) if array.shape == wanted.shape else np.array_equal(array.T, wanted)
        ):
            return True
    return False
