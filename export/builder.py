"""onnxruntime-genai's model builder, run as its own entry point in a child process, so that its memory goes back.

Knows the builder's command line and its output. Knows nothing of bundles.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from foldrank.errors import ExportError
from foldrank.progress import SILENT, Progress

_MODULE = "onnxruntime_genai.models.builder"
_RAISED = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit|Warning): .+")
_LOG_LINES = 400


class BuilderFailed(ExportError):
    """The builder's reason in one line; `log` holds the end of what it printed, which a traceback shows as a note."""

    def __init__(self, where: object, what: str, remedy: str, log: str) -> None:
        super().__init__(where, what, remedy)
        self.log = log
        self.add_note(log)


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
    """Raise ExportError, listing what is known, where the builder would not know the architecture."""
    known = known_architectures()
    if architecture not in known:
        raise ExportError(architecture, "the genai exporter does not know this architecture",
                          f"it knows {', '.join(known)}")


def build(
    checkpoint: Path, output: Path, *, precision: str, execution_provider: str, blocks: int, remote_code: bool = False,
    progress: Progress = SILENT,
) -> None:
    """Write model.onnx, model.onnx.data, genai_config.json and tokenizer into `output`. Raises BuilderFailed.

    `precision`: fp32, fp16 or bf16. `execution_provider`: cpu or cuda; no such device is needed.
    An interrupt ends the child.
    """
    work = output / ".builder"
    work.mkdir()
    command = [sys.executable, "-m", _MODULE, "-i", str(checkpoint), "-o", str(output), "-p", precision,
               "-e", execution_provider, "-c", str(work)]
    if remote_code:
        command += ["--extra_options", "hf_remote=true"]
    log: list[str] = []
    code = _run(command, work, log, blocks, progress)
    if code != 0:
        text = "\n".join(log)
        raise BuilderFailed(checkpoint, f"the model builder failed: {_reason(log, code)}", _way_out(text), text)
    if work.is_dir():
        for left in work.iterdir():
            left.unlink()
        work.rmdir()


def _run(command: list[str], folder: Path, log: list[str], blocks: int, progress: Progress) -> int:
    """Run to the end, keeping the last lines it prints. In a session of its own: an interrupt is passed on by us."""
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    environment = {**os.environ, **offline, "ORT_DISABLE_TELEMETRY": "1", "TQDM_DISABLE": "1", "PYTHONUNBUFFERED": "1",
                   "PYTHONIOENCODING": "utf-8:replace"}
    child = subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace", start_new_session=True,
    )
    progress.start("export", blocks)
    try:
        for line in child.stdout or ():
            log.append(line.rstrip())
            del log[:-_LOG_LINES]
            if line.startswith("Reading layer "):
                progress.advance("export")
        return child.wait()
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        if child.stdout:
            child.stdout.close()
        progress.finish("export")


def _reason(log: list[str], code: int) -> str:
    """The last exception's line, else the last line, else the signal that ended it."""
    raised = [line for line in log if _RAISED.fullmatch(line)]
    if raised:
        return raised[-1][:400]
    if code < 0:
        return f"ended by {signal.Signals(-code).name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")
    return next((line[:400] for line in reversed(log) if line.strip()), f"exit code {code}")


def _way_out(log: str) -> str:
    if "No space left on device" in log:
        return "make room or choose another -o"
    return "-v shows its whole log"
