"""`foldrank inspect`: what a bundle, an .onnx file, a checkpoint or a plan holds, as one JSON object."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foldrank.errors import SourceError
from foldrank.model.gguf import gguf_of
from foldrank.sites import PACKED, Site

if TYPE_CHECKING:
    import onnx_ir as ir

    from foldrank.edits.anatomy import Anatomy, BlockAnatomy

_DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


def inspect(path: Path | str) -> dict[str, Any]:
    """Describe what lies at `path`; "kind" says what it is. Reads headers and graphs, of a bundle also every digest.

    Raises SourceError where there is nothing of the four, else the errors of reading it.
    """
    path = Path(path).expanduser().absolute()
    if path.is_dir():
        if os.path.lexists(path / "manifest.json"):
            return _bundle(path)
        if os.path.lexists(path / "plan.json"):
            return _plan(path)
        if (os.path.lexists(path / "config.json") and not (path / "model.onnx").exists()) or gguf_of(path):
            return _checkpoint(path)
        what, remedy = "holds no manifest.json, plan.json or checkpoint", "give a bundle, a plan or a checkpoint"
        if (path / "model.onnx").exists():
            what, remedy = "has no manifest.json, so it is not a bundle", f"inspect {path / 'model.onnx'} instead"
        raise SourceError(path, what, remedy)
    if not path.exists():
        raise SourceError(path, "no such file or folder", "give a bundle, an .onnx file, a checkpoint or a plan")
    if path.is_file() and gguf_of(path):
        return _checkpoint(path)
    if path.suffix != ".onnx":
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
    from foldrank.graph.anatomy import read_anatomy
    from foldrank.graph.identify import refuse_others
    from foldrank.graph.safe.load import load_model
    from foldrank.graph.view.skip_norms import read_apart

    model = load_model(path)
    refuse_others(model, path)
    decoder = read_apart(model)
    anatomy = read_anatomy(decoder)
    return {
        "identity": "decoder", "dialect": decoder.dialect, "blocks": len(anatomy.blocks),
        "block_numbers": list(anatomy.numbers), "sites": _sites(anatomy),
        "kv": _kv(anatomy), "axes": _axes(model), "parameters": decoder.parameters,
        "bytes": sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None),
        "tied": anatomy.tied, "tables": _tables(anatomy), **_table_ranks(anatomy),
        **({} if anatomy.rotated is None else {"rotated": anatomy.rotated}),
        **({"centred": anatomy.centred} if anatomy.centred else {}),
        "opset": model.graph.opset_imports.get(""), "ir_version": model.ir_version,
    }


def _tables(anatomy: Anatomy) -> dict[str, str | None]:
    """In which few bits head and table of words are stored; null where as floats."""
    held = {"head": anatomy.head.few_bits if anatomy.head else None, "embedding": anatomy.embedding}
    return {name: None if few is None else str(few) for name, few in held.items()}


def _table_ranks(anatomy: Anatomy) -> dict[str, dict[str, int]]:
    """Of the pairs in the place of head and table of words, where there are any."""
    held = {"head": anatomy.head.rank if anatomy.head else None, "embedding": anatomy.embedding_rank}
    ranks = {name: rank for name, rank in held.items() if rank is not None}
    return {"table_ranks": ranks} if ranks else {}


def _axes(model: ir.Model) -> dict[str, list[int | str | None]]:
    """Of every input and output, in order: a number, or the name that tools bind it by; null where it has none."""
    ports = (*model.graph.inputs, *model.graph.outputs)
    return {str(port.name): [dim if isinstance(dim, int) else dim.value for dim in port.shape.dims]
            for port in ports if port.shape is not None}


def _kv(anatomy: Anatomy) -> dict[str, int]:
    return {"pairs": len(anatomy.cached), "heads": anatomy.kv_heads, "head_size": anatomy.head_size,
            "query_heads": anatomy.heads}


def _sites(anatomy: Anatomy) -> list[dict[str, Any]]:
    """Rows in the order in which blocks apply them; roles that lie in one weight and are commonly packed are one."""
    return [_row(anatomy, block, site) for block in anatomy.blocks for site in _packed(block)]


def _packed(block: BlockAnatomy) -> Iterator[Site]:
    for role, matrix in block.matrices.items():
        together = next((roles for roles in PACKED.values() if role in roles and matrix.packed[: len(roles)] == roles),
                        (role,))
        if role == together[0]:
            yield Site(block.number, together)


def _row(anatomy: Anatomy, block: BlockAnatomy, site: Site) -> dict[str, Any]:
    matrices = [block.matrices[role] for role in site.roles]
    first = matrices[0]
    beside = {role: pair.rank for role in site.roles if (pair := block.matrices[role].beside) is not None}
    found = {"site": str(site), "shape": [first.shape[0], sum(matrix.shape[1] for matrix in matrices)],
             "dtype": _DTYPES.get(first.dtype, first.dtype), "rank": first.rank}
    owner = anatomy.owners.get(site.parts[0])
    reads = {} if owner is None else {"reads": str(Site(owner.block, site.roles))}
    return found | ({"beside": beside} if beside else {}) | reads


def _checkpoint(path: Path) -> dict[str, Any]:
    from foldrank.model.anatomy import checkpoint_anatomy
    from foldrank.model.checkpoint import Checkpoint
    from foldrank.model.identify import identify

    checkpoint = Checkpoint.open(path, offline=True)
    anatomy = checkpoint_anatomy(checkpoint)
    tensors = checkpoint.tensors.values()
    return {
        "kind": "checkpoint", "identity": identify(checkpoint.config, checkpoint.tensors).name,
        **(checkpoint.gguf.source() | checkpoint.gguf.stored() if checkpoint.gguf else {}),
        "dialect": "safetensors", "name": checkpoint.name,
        "architecture": checkpoint.architecture,
        "blocks": len(anatomy.blocks), "sites": _sites(anatomy), "kv": _kv(anatomy),
        "parameters": sum(tensor.size for tensor in tensors),
        "bytes": sum(tensor.end - tensor.start for tensor in tensors),
        "tied": anatomy.tied,
        "config_sha256": checkpoint.config_sha256,
    }


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
