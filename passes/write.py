"""Write a model: each tensor streamed once from where it lies to one new data file.

Never more than two tensors and a queue of chunks in memory. Beside reading and writing, one thread hashes what was
written and another sends it to disk, so that neither has to wait for the other.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import onnx_ir as ir

from foldrank.bundle import FileEntry
from foldrank.graph.weights import CHUNK_BYTES, open_data
from foldrank.progress import SILENT, Progress, track

MODEL, DATA = "model.onnx", "model.onnx.data"
INLINE_BYTES = 256
"""Smaller tensors stay in the graph file, where shape inference can see them."""
_ALIGNMENT = 64
"""Bytes: a cache line, so that kernels can read mapped weights as they lie."""
_AHEAD = 64
"""Chunks that writing may be ahead of hashing."""
_FLUSH_BYTES = 32 << 20
"""Sent to disk at once while more is written: waiting with all of it to the end would leave disk or processor idle."""


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
        for chunk in _chunks(tensor):
            data.write(chunk)
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


class HashedFile:
    """A new file that is hashed and sent to disk by threads of their own while it is written."""

    def __init__(self, path: Path) -> None:
        self.path, self.position = path, 0
        self._file = path.open("xb", buffering=0)
        self._hash = hashlib.sha256()
        self._chunks: queue.Queue[memoryview | None] = queue.Queue(_AHEAD)
        self._flushes: queue.Queue[bool] = queue.Queue()
        self._failed: OSError | None = None
        self._threads = [threading.Thread(target=run, name=run.__name__) for run in (self._digest, self._flush)]

    def __enter__(self) -> HashedFile:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        self._file.close()

    def write(self, chunk: memoryview) -> None:
        """Append bytes; the caller leaves them unchanged from now on."""
        self._chunks.put(chunk)
        rest = chunk
        while rest:
            rest = rest[self._file.write(rest):]
        if (self.position + len(chunk)) // _FLUSH_BYTES > self.position // _FLUSH_BYTES:
            self._flushes.put(True)
        self.position += len(chunk)

    def pad(self, alignment: int) -> None:
        """Append zeros up to a multiple of the alignment."""
        if missing := -self.position % alignment:
            self.write(memoryview(bytes(missing)))

    def entry(self) -> FileEntry:
        """Digest and size; waits for the digest, after which nothing more can be written. Raises OSError."""
        self._end()
        if self._failed is not None:
            raise self._failed
        return FileEntry(self._hash.hexdigest(), self.position)

    def _end(self) -> None:
        if any(thread.is_alive() for thread in self._threads):
            self._chunks.put(None)
            self._flushes.put(False)
        for thread in self._threads:
            thread.join()

    def _digest(self) -> None:
        while (chunk := self._chunks.get()) is not None:
            self._hash.update(chunk)

    def _flush(self) -> None:
        """The kernel tells of a failed write only once, so it is kept."""
        while self._flushes.get():
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                self._failed = self._failed or error


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
        yield data[start : start + CHUNK_BYTES]  # a tensor lives until its last piece is hashed: one more at most


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
