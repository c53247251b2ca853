"""Write a model: each tensor streamed once from where it lies to one new data file, hashed on the way.

Never more than one tensor and a few chunks in memory; hashing runs beside reading and writing in a thread of its own.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import onnx_ir as ir

from foldrank.bundle import FileEntry
from foldrank.graph.weights import CHUNK_BYTES, open_data
from foldrank.progress import SILENT, Progress, track

MODEL, DATA = "model.onnx", "model.onnx.data"
_INLINE_BYTES = 256
"""Smaller tensors stay in the graph file, where shape inference can see them."""
_ALIGNMENT = 64
"""Bytes: a cache line, so that kernels can read mapped weights as they lie."""


def write_model(model: ir.Model, folder: Path, progress: Progress = SILENT) -> dict[str, FileEntry]:
    """Write model.onnx and model.onnx.data into an empty folder; returns their digests. Changes the model's tensors
    into references to the new file. Raises OSError."""
    values = list(model.graph.initializers.values())
    with HashedFile(folder / DATA) as file:
        for value in track(values, "weights", len(values), progress):
            tensor, name = value.const_value, str(value.name)
            assert tensor is not None
            if tensor.nbytes <= _INLINE_BYTES:
                value.const_value = ir.Tensor(np.array(tensor.numpy()), dtype=tensor.dtype, name=name)
                continue
            file.pad(_ALIGNMENT)
            start = file.position
            for chunk in _chunks(tensor):
                file.write(chunk)
            value.const_value = ir.ExternalTensor(
                DATA, start, file.position - start, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name,
                base_dir=folder,
            )
    graph = ir.to_proto(model).SerializeToString()
    (folder / MODEL).write_bytes(graph)
    return {DATA: file.entry(), MODEL: FileEntry(hashlib.sha256(graph).hexdigest(), len(graph))}


class HashedFile:
    """A new file whose sha256 is taken while it is written. The hash is ready once the `with` block has ended."""

    def __init__(self, path: Path) -> None:
        self.position = 0
        self._file = path.open("xb", buffering=0)
        self._hash = hashlib.sha256()
        self._chunks: queue.Queue[memoryview | None] = queue.Queue(maxsize=4)
        self._thread = threading.Thread(target=self._digest, name="sha256")

    def __enter__(self) -> HashedFile:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._chunks.put(None)
        self._thread.join()
        self._file.close()

    def write(self, chunk: memoryview) -> None:
        """Append bytes; the caller leaves them unchanged from now on."""
        self._chunks.put(chunk)
        rest = chunk
        while rest:
            rest = rest[self._file.write(rest):]
        self.position += len(chunk)

    def pad(self, alignment: int) -> None:
        """Append zeros up to a multiple of the alignment."""
        if missing := -self.position % alignment:
            self.write(memoryview(bytes(missing)))

    def entry(self) -> FileEntry:
        """Digest and size."""
        return FileEntry(self._hash.hexdigest(), self.position)

    def _digest(self) -> None:
        while (chunk := self._chunks.get()) is not None:
            self._hash.update(chunk)


def _chunks(tensor: ir.TensorProtocol) -> Iterator[memoryview]:
    """A tensor's bytes, little endian, C order."""
    if isinstance(tensor, ir.ExternalTensor):
        yield from _file_chunks(tensor)
        return
    if isinstance(tensor, ir.LazyTensor):
        data = memoryview(np.ascontiguousarray(tensor.numpy()).view(np.uint8).reshape(-1).data)
    else:
        data = memoryview(tensor.tobytes())
    for start in range(0, len(data), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]


def _file_chunks(tensor: ir.ExternalTensor) -> Iterator[memoryview]:
    left = tensor.nbytes
    with open_data(tensor) as file:
        file.seek(tensor.offset or 0)
        while left:
            buffer = np.empty(min(CHUNK_BYTES, left), np.uint8).data  # not zeroed first, as a bytearray would be
            count = file.readinto(buffer)  # type: ignore[attr-defined]
            if not count:
                raise OSError(5, "ends before its tensors do", tensor.path)
            left -= count
            yield buffer[:count]
