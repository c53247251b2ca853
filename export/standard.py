"""Export to a graph of standard operators: by transformers.exporters, or optimum-onnx in an interpreter that has it.

Both leave the files that a bundle of the genai exporter has, under the same input and output names.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import onnx
import onnx_ir as ir

from foldrank import strictjson
from foldrank.bundle.bundle import FileEntry
from foldrank.digests import sha256_file
from foldrank.errors import ExportError
from foldrank.export.child import run_child
from foldrank.export.finish import finish_files, finish_graph
from foldrank.export.needed import check_transformers
from foldrank.export.older import older_checkpoint
from foldrank.export.ports import Ports, common_ports
from foldrank.export.settings import genai_settings
from foldrank.installed import missing
from foldrank.model.checkpoint import Checkpoint
from foldrank.model.readable import readable
from foldrank.progress import SILENT, Progress

MODEL, DATA = "model.onnx", "model.onnx.data"
OPTIMUM_PYTHON = "FOLDRANK_OPTIMUM_PYTHON"
"""Environment variable: the interpreter that has optimum-onnx, where this one has not."""

_FOR_GENAI = {"tensorrt": "cuda", "standard": "cpu"}
_TESTED = "'optimum-onnx==0.1.0' 'transformers==4.57.6' 'torch==2.13.0' onnxruntime"


def by_transformers(
    checkpoint: Checkpoint, folder: Path, *, dtype: str, provider: str, trust_remote_code: bool = False,
    progress: Progress = SILENT,
) -> dict[str, FileEntry]:
    """Fill an empty folder with everything but card and manifest. Gives the entries of files that were digested.

    Raises ExportError.
    """
    check_dtype(dtype)
    if lacking := missing(("torch", "onnxscript")):
        raise ExportError("exporter transformers", f"{lacking[0]} is not installed", "pip install 'foldrank[torch]'")
    check_transformers("transformers")
    with readable(checkpoint) as source:
        command = [sys.executable, "-m", "foldrank.export.trace", str(source), str(folder / MODEL), dtype]
        command += ["trust"] if trust_remote_code else []
        run_child(command, folder, where=checkpoint.path, who="transformers.exporters", progress=progress)
    model = ir.load(folder / MODEL)
    ports = common_ports(model, checkpoint, dtype=dtype)
    onnx.save(ir.to_proto(model), folder / MODEL)
    return finish(folder, checkpoint, ports, provider)


def by_optimum(
    checkpoint: Checkpoint, folder: Path, *, dtype: str, provider: str, trust_remote_code: bool = False,
    progress: Progress = SILENT,
) -> dict[str, FileEntry]:
    """As `by_transformers`, with optimum-onnx, which on a CPU writes fp32 whatever is asked. Raises ExportError."""
    check_dtype(dtype)
    check_attention(checkpoint)
    raw = folder / ".raw"
    raw.mkdir()
    source = older_checkpoint(checkpoint, folder / ".checkpoint")
    command = [optimum_python(), "-m", "optimum.exporters.onnx", "-m", str(source),
               "--task", "text-generation-with-past", "--dtype", dtype, str(raw)]
    command += ["--trust-remote-code"] if trust_remote_code else []
    run_child(command, raw, where=checkpoint.path, who="optimum-onnx", progress=progress)
    model = ir.load(raw / MODEL)
    ports = common_ports(model, checkpoint, dtype=dtype)
    ir.save(model, folder / MODEL, external_data=DATA)
    del model
    for done in (raw, source):
        shutil.rmtree(done)
    return finish(folder, checkpoint, ports, provider)


def optimum_python() -> str:
    """The interpreter that has optimum-onnx: the one named by the environment, else this one. Raises ExportError."""
    if named := os.environ.get(OPTIMUM_PYTHON):
        if not os.access(named, os.X_OK):
            raise ExportError(OPTIMUM_PYTHON, f"{named} is no program", "name the python of that environment")
        return os.path.abspath(named)
    if missing(("optimum.exporters.onnx",)):
        raise ExportError(
            "exporter optimum", "optimum-onnx is not installed here, and it needs an older transformers",
            f"python -m venv optimum && optimum/bin/pip install {_TESTED} && "
            f"export {OPTIMUM_PYTHON}=$PWD/optimum/bin/python",
        )
    return sys.executable


def check_dtype(dtype: str) -> None:
    """Raise ExportError for bf16, which nothing here can run: such a graph would leave unproved."""
    if dtype == "bf16":
        raise ExportError("dtype bf16", "ONNX Runtime has no bfloat16 kernels for the CPU, so a graph of standard "
                          "operators in it cannot be proved", "--dtype fp16 or fp32, or --exporter genai for cuda")


def check_attention(checkpoint: Checkpoint) -> None:
    """Raise ExportError where what optimum-onnx traces is not the attention of the checkpoint.

    It takes SDPA, which leaves a soft cap of the scores out, and leaves out that Falcon rounds ALiBi to bfloat16.
    """
    text = checkpoint.text_config
    if text.get("attn_logit_softcapping"):
        what = "its attention scores are soft-capped, which optimum-onnx leaves out"
        raise ExportError(checkpoint.path, what, "--exporter transformers or genai")
    if text.get("alibi"):
        raise ExportError(checkpoint.path, "its attention is biased by distance (ALiBi) in bfloat16, which "
                          "optimum-onnx does in fp32: other logits from some 256 tokens on", "--exporter transformers")


def finish(
    folder: Path, checkpoint: Checkpoint, ports: Ports, provider: str, *, shared_cache: bool = False
) -> dict[str, FileEntry]:
    """Everything beside model.onnx and its data, and the graph's name. Gives the data file's entry.

    `shared_cache`: whether GroupQueryAttention may write past and present into one buffer. The graph is the same for
    all providers; onnxruntime-genai, which offers but CPU and CUDA, is told one of them.
    """
    data = folder / DATA
    entry = FileEntry(sha256_file(data), data.stat().st_size)
    settings = genai_settings(checkpoint, ports, shared_cache=shared_cache)
    (folder / "genai_config.json").write_text(strictjson.dumps(settings), encoding="utf-8")
    for_genai = _FOR_GENAI.get(provider, provider)
    finish_graph(folder, entry.sha256, left_padding=for_genai == "cpu")
    finish_files(folder, checkpoint, for_genai)
    return {DATA: entry}
