"""onnxruntime-genai's model builder, run as its own entry point in a child process, so that its memory goes back.

Knows the builder's command line and its output. Knows nothing of bundles.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

from foldrank.errors import ExportError, NotWritable
from foldrank.export.child import run_child
from foldrank.progress import SILENT, Progress

_MODULE = "onnxruntime_genai.models.builder"


def known_architectures(source: Path | None = None) -> tuple[str, ...]:
    """Architectures the installed builder compares a config's with, read off its syntax tree. Raises ExportError."""
    tree = ast.parse((source or _builder_file()).read_text(encoding="utf-8"))
    names = {
        name for node in ast.walk(tree) if isinstance(node, ast.Compare) and "architectures" in ast.dump(node.left)
        for side in node.comparators for name in _strings(side)
    }
    return tuple(sorted(names))


def _strings(node: ast.expr) -> Iterator[str]:
    yield from (n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str))


def _builder_file() -> Path:
    spec = importlib.util.find_spec("onnxruntime_genai")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    path = next((p for f in folders if (p := Path(f) / "models" / "builder.py").is_file()), None)
    if path is None:
        raise ExportError("exporter genai", "onnxruntime-genai is not installed", "pip install 'foldrank[cpu,torch]'")
    return path


def check_architecture(architecture: str) -> None:
    """Raise NotWritable, listing what is known, where the builder would not know the architecture."""
    known = known_architectures()
    if architecture not in known:
        raise NotWritable(architecture, "the genai exporter does not know this architecture",
                          f"--exporter transformers, for a decoder of transformers; this one knows {', '.join(known)}")


def build(
    checkpoint: Path, output: Path, *, precision: str, execution_provider: str, blocks: int, remote_code: bool = False,
    progress: Progress = SILENT,
) -> None:
    """Write model.onnx, model.onnx.data, genai_config.json and tokenizer into `output`. Raises ExporterFailed.

    `precision`: fp32, fp16 or bf16. `execution_provider`: cpu or cuda; no such device is needed.
    An interrupt ends the child.
    """
    work = output / ".builder"
    work.mkdir()
    command = [sys.executable, "-m", _MODULE, "-i", str(checkpoint), "-o", str(output), "-p", precision,
               "-e", execution_provider, "-c", str(work)]
    # A cache cut to the window refuses to start empty, which every consumer but onnxruntime-genai does.
    command += ["--extra_options", "windowed_kv_cache=false", *(["hf_remote=true"] if remote_code else [])]
    run_child(command, work, where=checkpoint, who="the model builder", steps=blocks, step="Reading layer ",
              progress=progress)
    if work.is_dir():
        for left in work.iterdir():
            left.unlink()
        work.rmdir()
