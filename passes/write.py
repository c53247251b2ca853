"""Write a model: each tensor streamed once from where it lies to one new data file.

Never more than one computed tensor in memory; one that lies in a file already is copied from there in pieces.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir

from foldrank.bundle.bundle import FileEntry
from foldrank.graph.linear.weights import open_data
from foldrank.passes.hashed_file import HashedFile
from foldrank.progress import SILENT, Progress, track

MODEL, DATA = "model.onnx", "model.onnx.data"
INLINE_BYTES = 256
"""Smaller tensors stay in the graph file, where shape inference can see them."""
_ALIGNMENT = 64
"""Bytes: a cache line, so that kernels can read mapped weights as they lie."""


def write_model(model: ir.Model, folder: Path, progress: Progress = SILENT) -> dict[str, FileEntry]:
    """Write model.onnx and model.onnx.data into an empty folder; returns their digests. Changes the model's tensors
    into references to the new file. Raises OSError."""
    with HashedFile(folder / DATA) as data:
        graph = stream_model(model, data, progress)
        return {MODEL: graph, DATA: data.entry()}


def stream_model(
    model: ir.Model, data: HashedFile, progress: Progress = SILENT, between: Callable[[], None] = lambda: None
) -> FileEntry:
    """Append every tensor to `data` and write model.onnx beside it; returns the graph's digest, while the data's is
    still being taken. `between` is called before each tensor and may raise. Raises OSError."""
    values = list(model.graph.initializers.values())
    for value in track(values, "weights", len(values), progress):
        between()
        tensor, name = value.const_value, str(value.name)
        assert tensor is not None
        if tensor.nbytes <= INLINE_BYTES:
            value.const_value = in_graph(tensor, name)
            continue
        data.pad(_ALIGNMENT)
        start = data.position
        _write_tensor(tensor, data)
        value.const_value = ir.ExternalTensor(
            DATA, start, data.position - start, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name,
            base_dir=data.path.parent,
        )
    graph = ir.to_proto(model).SerializeToString()
    (data.path.parent / MODEL).write_bytes(graph)
    return FileEntry(hashlib.sha256(graph).hexdigest(), len(graph))


def in_graph(tensor: ir.TensorProtocol, name: str) -> ir.Tensor:
    """A small tensor, to be written into the graph file."""
    return ir.Tensor(np.array(tensor.numpy()), dtype=tensor.dtype, name=name)


def _write_tensor(tensor: ir.TensorProtocol, data: HashedFile) -> None:
    """Append a tensor's bytes, little endian, C order."""
    if isinstance(tensor, ir.ExternalTensor):
        with open_data(tensor) as file:
            data.copy(file, tensor.offset or 0, tensor.nbytes, str(tensor.path))
    elif isinstance(tensor, ir.LazyTensor) and tensor.dtype.bitwidth >= 8:  # fewer are packed by tobytes
        data.write(memoryview(np.ascontiguousarray(tensor.numpy()).view(np.uint8).reshape(-1).data))
    else:
        data.write(memoryview(tensor.tobytes()))
