"""Load an ONNX model that a stranger may have written: checked, in bounded time and memory, before it is built."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, Message

from foldrank.errors import SourceError, UnsafeModel
from foldrank.graph.dataflow.order import put_in_order
from foldrank.graph.safe import proto, wire
from foldrank.model.gguf_header import is_gguf
from foldrank.plainfile import open_plain, why_not
from foldrank.pointers import refuse_pointer

MAX_PROTO = 64 << 20
"""Bytes of the .onnx file itself. A decoder's graph takes a few; weights belong into external data."""

_REMEDY = "export the model again"


def load_model(path: Path | str) -> ir.Model:
    """Read a model; its weights stay on disk until asked for. Raises UnsafeModel with the first reasons found, and
    SourceError for a GGUF file.

    Accepted: one regular file of at most MAX_PROTO bytes, standard and com.microsoft operators, external data in plain
    files below the model's own folder, each byte owned by one tensor. Nodes that are out of order are put in order.
    """
    path = Path(os.path.abspath(path))
    data = _read(path)
    if reason := wire.survey(data):
        raise UnsafeModel(path, reason, _REMEDY)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise UnsafeModel(path, "not an ONNX file, or truncated", _REMEDY) from None
    del data
    if not _all_text(model):
        raise UnsafeModel(path, "a name in it is not UTF-8: it may be damaged", _REMEDY)
    for place in sorted(_data_files(model)):
        refuse_pointer(path.parent / place, follow=False)
    put_in_order(model.graph)
    if found := list(islice(proto.problems(model, path.parent), 5)):
        raise UnsafeModel(path, " | ".join(found), _REMEDY)
    try:
        loaded = ir.from_proto(model)
    except (ir.serde.SerdeError, ValueError, TypeError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise UnsafeModel(path, f"not an ONNX model that can be read: {reason}", _REMEDY) from None
    ir.external_data.set_base_dir(loaded.graph, path.parent)
    return loaded


def _data_files(model: onnx.ModelProto) -> set[str]:
    """Names of data files that lie beside the model, as its initializers give them; links are never followed."""
    named = {e.value for tensor in model.graph.initializer for e in tensor.external_data if e.key == "location"}
    return {name for name in named if name == os.path.basename(name) and name not in ("", ".", "..")}


def _all_text(model: onnx.ModelProto) -> bool:
    """Protobuf hands out damaged strings as bytes."""
    pending: list[Message] = [model]
    while pending:
        for field, value in pending.pop().ListFields():
            if field.type == field.TYPE_MESSAGE:
                pending.extend([value] if isinstance(value, Message) else value)
            elif field.type == field.TYPE_STRING and any(
                isinstance(text, bytes) for text in ([value] if isinstance(value, str | bytes) else value)
            ):
                return False
    return True


def _read(path: Path) -> bytes:
    """The file's bytes."""
    remedy = "give the path of a plain .onnx file"
    refuse_pointer(path, follow=False)
    try:
        with open_plain(path, follow=False) as file:
            size = os.fstat(file.fileno()).st_size
            if is_gguf(path, os.pread(file.fileno(), 4, 0)):
                raise SourceError(path, "is a GGUF file, a checkpoint and no graph", "give it in a checkpoint's place")
            if size > MAX_PROTO:
                what = f"has {size >> 20} MiB; at most {MAX_PROTO >> 20} MiB are read"
                raise UnsafeModel(path, what, "save it with its weights as external data")
            return file.read(MAX_PROTO + 1)
    except OSError as error:
        raise UnsafeModel(path, why_not(error), remedy) from None
