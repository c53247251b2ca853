"""Export through onnxruntime-genai's model builder: one graph for prefill and decode, GroupQueryAttention inside."""

from __future__ import annotations

from pathlib import Path

from foldrank.bundle import FileEntry
from foldrank.checkpoint import Checkpoint
from foldrank.digests import sha256_file
from foldrank.errors import ExportError
from foldrank.export.builder import build, check_architecture
from foldrank.export.finish import finish_files, finish_graph
from foldrank.progress import SILENT, Progress

_DATA = "model.onnx.data"


def export(
    checkpoint: Checkpoint, folder: Path, *, dtype: str, provider: str, trust_remote_code: bool = False,
    progress: Progress = SILENT,
) -> dict[str, FileEntry]:
    """Fill an empty folder with everything but card and manifest. Gives the entries of files that were digested.

    `provider`: cpu or cuda, whose kernels the bundle is for. Raises ExportError.
    """
    if provider not in ("cpu", "cuda"):
        raise ExportError(f"provider {provider}", "the genai exporter writes graphs for cpu and cuda only",
                          "--provider cpu or cuda; other graphs are not available yet in this version")
    check_architecture(checkpoint.architecture)
    build(
        checkpoint.path, folder, precision=dtype, execution_provider=_builder_provider(dtype, provider),
        blocks=checkpoint.blocks, remote_code=trust_remote_code, progress=progress,
    )
    data = folder / _DATA
    entry = FileEntry(sha256_file(data), data.stat().st_size)
    finish_graph(folder, entry.sha256)
    finish_files(folder, checkpoint, "cuda" if dtype == "bf16" else provider)
    return {_DATA: entry}


def _builder_provider(dtype: str, provider: str) -> str:
    """For which kernels the builder writes.

    Half precision asked for the CPU gives hundreds of reshapes around MultiHeadAttention; the graph for CUDA has
    GroupQueryAttention, which the CPU runs in fp16 too. bf16 has no CPU kernels either way (ONNX Runtime 1.32).
    """
    return provider if dtype == "fp32" else "cuda"
