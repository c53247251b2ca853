"""export: a checkpoint to a dense bundle, built aside and sealed last."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

from foldrank.bundle.bundle import Bundle, seal
from foldrank.digests import DTYPES
from foldrank.disk.staging import check_output, staged_folder
from foldrank.export.exporters import EXPORTERS, Exported, check_exporter, run_exporter
from foldrank.export.untied import untied
from foldrank.model.checkpoint import Checkpoint, check_finite
from foldrank.model.places import remember, remember_gguf
from foldrank.plans.models.names import prove_names
from foldrank.progress import SILENT, Progress
from foldrank.reporting.card import model_card
from foldrank.runtime.providers.provider import graphs_of, short_name
from foldrank.verbs.adopt import adopt
from foldrank.verbs.export_proof import ExportProof
from foldrank.versions import versions


def export(
    model: str | Path, output: str | Path, *, exporter: str = "auto", dtype: str = "fp32", provider: str = "cpu",
    force: bool = False, offline: bool = False, trust_remote_code: bool = False, seed: int = 0,
    graph: str | Path | None = None, progress: Progress = SILENT,
) -> Bundle:
    """Export a checkpoint folder or hub id to a dense ONNX bundle.

    `exporter`: auto is onnxruntime-genai's builder (genai), or transformers where that does not write the model as it
    is, or not for the provider; the manifest then says why. `graph`: adopt this .onnx file (or its folder), which
    `exporter` made earlier from that checkpoint.

    `dtype`: fp32, fp16 or bf16 (bf16 runs on CUDA only). `provider`: cpu, cuda or tensorrt, for whose kernels the
    graph is written, or a plugin, which takes those of one of them; no such device is needed. Every graph is proved
    against the checkpoint in PyTorch on the CPU first. Nothing in it is random: `seed` is only noted. Raises
    SourceError, ExportError, and UnsafeModel where an adopted graph breaks a rule of safe loading.
    """
    if dtype not in DTYPES:
        raise ValueError(f"no dtype {dtype!r}; one of {', '.join(DTYPES)}")
    check_exporter(exporter)
    if graph is not None and exporter not in EXPORTERS:
        raise ValueError(f"which exporter made {graph}? --exporter transformers or optimum (or genai: few bits)")
    asked = short_name(provider)
    target = graphs_of(asked)
    check_output(output, force=force)
    checkpoint = Checkpoint.open(model, offline=offline, trust_remote_code=trust_remote_code, progress=progress)
    names = prove_names(checkpoint, trust_remote_code=trust_remote_code)
    for note in names.notes:
        logging.getLogger("foldrank").warning("%s: %s", checkpoint.name, note)
    check_finite(checkpoint, progress)
    source = checkpoint.source()
    proof = ExportProof(checkpoint, dtype=dtype, trust_remote_code=trust_remote_code, progress=progress)
    as_stored: contextlib.AbstractContextManager[Checkpoint] = (
        untied(checkpoint) if names.own_head else contextlib.nullcontext(checkpoint))
    with staged_folder(output, force=force) as folder, as_stored as given:
        if graph is not None:
            files = adopt(Path(graph).expanduser(), given, folder, dtype=dtype, provider=target, progress=progress)
            proof(exporter, folder)
            made = Exported(exporter, files)
        else:
            made = run_exporter(exporter, given, folder, check=proof, dtype=dtype, provider=target,
                                trust_remote_code=trust_remote_code, progress=progress)
        proof.close()
        facts: dict[str, Any] = {"source": source, "exporter": made.exporter, "exporter_reason": made.reason,
                                 "dtype": dtype, "versions": versions(), "export_proof": proof.found,
                                 "notes": names.notes, "padding": proof.padding}
        card = model_card(folder, manifest=facts, also=("README.md", "manifest.json"))
        (folder / "README.md").write_text(card, encoding="utf-8")
        command = f"export {checkpoint.name} --exporter {made.exporter} --dtype {dtype} --provider {asked}"
        command += f" --from {Path(graph).name}" if graph is not None else ""
        seal(folder, command=command, seed=seed, known=made.files, weights=proof.weights, **facts)
    remember(source, checkpoint.path)
    if checkpoint.gguf is not None:
        remember_gguf(source, checkpoint.gguf.file)
    return Bundle.open(output)
