"""Write a model whose weights lie in several data files, none larger than a consumer can take, named in a row.

Knows graphs and files. Tensors are copied from where they lie, never computed: a written bundle holds nothing else.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx_ir as ir

from foldrank.bundle.bundle import FileEntry
from foldrank.graph.linear.weights import open_data
from foldrank.passes.hashed_file import HashedFile
from foldrank.progress import SILENT, Progress, track

_ALIGNMENT = 64
"""Bytes, as in `passes.write`."""


def write_shards(
    model: ir.Model, path: Path, *, most_bytes: int, progress: Progress = SILENT
) -> dict[str, FileEntry]:
    """Write the graph to `path` and its external tensors beside it, to NAME_data, NAME_data_1 and so on.

    A file ends before the tensor that would take it beyond `most_bytes`; a larger tensor has one of its own. Gives the
    digests by name, the graph's last. Changes the model's tensors into references to the new files. Raises OSError.
    """
    files: dict[str, FileEntry] = {}
    values = [value for value in model.graph.initializers.values() if isinstance(value.const_value, ir.ExternalTensor)]
    groups = _groups(values, most_bytes)
    for i, group in enumerate(groups):
        name = f"{path.name}_data" + (f"_{i}" if i else "")
        with HashedFile(path.parent / name) as data:
            for value in track(group, f"weights {i + 1} of {len(groups)}", len(group), progress):
                _move(value, data, name)
            files[name] = data.entry()
    graph = ir.to_proto(model).SerializeToString()
    path.write_bytes(graph)
    return files | {path.name: FileEntry(hashlib.sha256(graph).hexdigest(), len(graph))}


def _groups(values: list[ir.Value], most_bytes: int) -> list[list[ir.Value]]:
    """The values in order, cut where the next one would not fit any more."""
    groups: list[list[ir.Value]] = []
    used = most_bytes
    for value in values:
        assert value.const_value is not None
        size = value.const_value.nbytes + _ALIGNMENT
        if used + size > most_bytes:
            groups.append([])
            used = 0
        groups[-1].append(value)
        used += size
    return groups


def _move(value: ir.Value, data: HashedFile, name: str) -> None:
    tensor = value.const_value
    assert isinstance(tensor, ir.ExternalTensor)
    data.pad(_ALIGNMENT)
    start = data.position
    with open_data(tensor) as file:
        data.copy(file, tensor.offset or 0, tensor.nbytes, str(tensor.path))
    value.const_value = ir.ExternalTensor(name, start, tensor.nbytes, tensor.dtype, shape=tensor.shape,
                                          name=str(value.name), base_dir=data.path.parent)
