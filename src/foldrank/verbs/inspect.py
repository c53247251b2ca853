"""`foldrank inspect`: what a bundle, an .onnx file, a checkpoint or a plan holds, as one JSON object."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foldrank.errors import SourceError
from foldrank.model import facts
from foldrank.model.identify import refuse_gguf
from foldrank.sites import PACKED, ROLES, Site

if TYPE_CHECKING:
    import onnx_ir as ir

    from foldrank.graph.view.decoder import Block, Decoder
    from foldrank.model.checkpoint import Checkpoint

_DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_TENSOR = re.compile(r"(?:\w+\.)*(?:layers|h)\.(\d+)\.([\w.]+)\.weight")


def inspect(path: Path | str) -> dict[str, Any]:
    """Describe what lies at `path`; "kind" says what it is. Reads headers and graphs, of a bundle also every digest.

    Raises SourceError where there is nothing of the four, else the errors of reading it.
    """
    path = Path(path).expanduser().absolute()
    if path.is_dir():
        if (path / "manifest.json").is_file():
            return _bundle(path)
        if (path / "plan.json").is_file():
            return _plan(path)
        if (path / "config.json").is_file() and not (path / "model.onnx").exists():
            return _checkpoint(path)
        what, remedy = "holds no manifest.json, plan.json or checkpoint", "give a bundle, a plan or a checkpoint"
        if (path / "model.onnx").exists():
            what, remedy = "has no manifest.json, so it is not a bundle", f"inspect {path / 'model.onnx'} instead"
        raise SourceError(path, what, remedy)
    if not path.exists():
        raise SourceError(path, "no such file or folder", "give a bundle, an .onnx file, a checkpoint or a plan")
    if path.suffix != ".onnx":
        with path.open("rb") as file:
            refuse_gguf(path, file.read(4))
        raise SourceError(path, "is not an .onnx file", "give a bundle, an .onnx file, a checkpoint or a plan")
    return {"kind": "onnx", **_graph(path)}


def _bundle(path: Path) -> dict[str, Any]:
    from foldrank.bundle.bundle import Bundle

    bundle = Bundle.open(path)
    manifest = bundle.manifest
    return {
        "kind": "bundle", **_graph(bundle.model), "compressed": bundle.plan is not None,
        "source": dict(manifest.source), "exporter": manifest.exporter,
        "exporter_reason": manifest.exporter_reason, "dtype": manifest.dtype,
        "export_proof": manifest.export_proof, "notes": manifest.notes,
        "padding": manifest.padding,
        "created": manifest.created,
        "file_bytes": sum(entry.bytes for entry in manifest.files.values()),
    }


def _graph(path: Path) -> dict[str, Any]:
    from foldrank.graph.identify import refuse_others
    from foldrank.graph.safe.load import load_model
    from foldrank.graph.view.skip_norms import read_apart

    model = load_model(path)
    refuse_others(model, path)
    decoder = read_apart(model)
    return {
        "identity": "decoder", "dialect": decoder.dialect, "blocks": len(decoder.blocks),
        "block_numbers": [block.number for block in decoder.blocks],
        "sites": [row for block in decoder.blocks for row in _sites(block)],
        "kv": _kv(decoder), "axes": _axes(model), "parameters": decoder.parameters,
        "bytes": sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None),
        "tied": decoder.tied, "opset": model.graph.opset_imports.get(""), "ir_version": model.ir_version,
    }


def _axes(model: ir.Model) -> dict[str, list[int | str | None]]:
    """Of every input and output, in order: a number, or the name that tools bind it by; null where it has none."""
    ports = (*model.graph.inputs, *model.graph.outputs)
    return {str(port.name): [dim if isinstance(dim, int) else dim.value for dim in port.shape.dims]
            for port in ports if port.shape is not None}


def _kv(decoder: Decoder) -> dict[str, int]:
    pairs = sum(block.kv is not None for block in decoder.blocks)
    return {"pairs": pairs, "heads": decoder.kv_heads, "head_size": decoder.head_size,
            "query_heads": decoder.heads}


def _sites(block: Block) -> list[dict[str, Any]]:
    """Rows in the order in which a block applies them; a packed weight is one row."""
    held = [(linear.roles, linear.widths, linear.shape[0], linear.tensor.dtype.numpy().name)
            for linear in block.linears]
    held += [(few.roles, few.widths, few.matrix.shape[0], few.matrix.dtype) for few in block.few_bits]
    rows = [row for linear in held for row in _single_sites(block.number, *linear)]
    rows += [(site, _row(site, pair.shape, _dtype(pair.a.dtype), pair.rank))
             for pair in block.pairs for site in pair.sites]
    return [row for _, row in sorted(rows, key=lambda found: ROLES.index(found[0].roles[0]))]


def _single_sites(
    block: int, roles: tuple[str, ...], widths: tuple[int, ...], rows: int, dtype: str
) -> Iterator[tuple[Site, dict[str, Any]]]:
    """Rows of a linear that is one matrix; roles that are commonly packed are one site."""
    first = next((packed for packed in PACKED.values() if roles[: len(packed)] == packed), ())
    if first:
        site = Site(block, first)
        yield site, _row(site, (rows, sum(widths[: len(first)])), _dtype(dtype), None)
    for role, width in list(zip(roles, widths, strict=True))[len(first) :]:
        site = Site(block, (role,))
        yield site, _row(site, (rows, width), _dtype(dtype), None)


def _row(site: Site, shape: tuple[int, int], dtype: str, rank: int | None) -> dict[str, Any]:
    return {"site": str(site), "shape": list(shape), "dtype": dtype, "rank": rank}


def _dtype(name: str) -> str:
    return _DTYPES.get(name, name)


def _checkpoint(path: Path) -> dict[str, Any]:
    from foldrank.model.checkpoint import Checkpoint
    from foldrank.model.identify import identify

    checkpoint = Checkpoint.open(path, offline=True)
    tensors = checkpoint.tensors.values()
    return {
        "kind": "checkpoint", "identity": identify(checkpoint.config, checkpoint.tensors).name,
        "dialect": "safetensors", "name": checkpoint.name,
        "architecture": checkpoint.architecture,
        "blocks": checkpoint.blocks, "sites": [row for _, row in sorted(_stored_sites(checkpoint), key=itemgetter(0))],
        "kv": {"pairs": checkpoint.blocks, "heads": facts.kv_heads(checkpoint.config),
               "head_size": facts.head_size(checkpoint.config), "query_heads": facts.heads(checkpoint.config)},
        "parameters": sum(tensor.size for tensor in tensors),
        "bytes": sum(tensor.end - tensor.start for tensor in tensors),
        "tied": not any("lm_head" in name or "embed_out" in name for name in checkpoint.tensors),
        "config_sha256": checkpoint.config_sha256,
    }


def _stored_sites(checkpoint: Checkpoint) -> Iterator[tuple[tuple[int, int], dict[str, Any]]]:
    """(place, row) of each weight whose name tells its site. A checkpoint stores them [out, in], GPT-2's Conv1D not."""
    from foldrank.graph.dialects.modules import roles_of_module

    for name, tensor in checkpoint.tensors.items():
        match = _TENSOR.fullmatch(name)
        roles = roles_of_module(match.group(2)) if match else None
        if match is None or roles is None:
            continue
        site = Site(int(match.group(1)), roles)
        place = (site.block, ROLES.index(site.roles[0]))
        rows, columns = tensor.shape
        shape = (rows, columns) if checkpoint.architecture.startswith("GPT2") else (columns, rows)
        yield place, _row(site, shape, _dtype(tensor.dtype.name), None)


def _plan(path: Path) -> dict[str, Any]:
    from foldrank.edits import KINDS, class_of
    from foldrank.planfile.plan import Plan

    plan = Plan.read(path)
    document = plan.document
    factors = document.factors
    return {
        "kind": "plan", "source": {"name": document.source.name, "architecture": document.source.architecture,
                                   "config_sha256": document.source.config_sha256},
        "blocks": document.source.blocks, "blocks_left": len(plan.surviving_blocks),
        "calibration": dataclasses.asdict(document.calibration) if document.calibration else None,
        "steps": [dataclasses.asdict(step) for step in document.steps],
        **{class_of(kind).listed: [edit.row() for edit in plan.of(class_of(kind))] for kind in KINDS},
        "predicted": dict(document.predicted), "bytes": factors.bytes if factors else 0,
    }
