"""GGUF files as checkpoints: dequantised once, through transformers, into a folder of the user's cache.

What comes out is an ordinary checkpoint of floats. Its values lie where the file's few bits put them.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from foldrank.cache import cache_folder
from foldrank.disk.staging import staged_folder
from foldrank.errors import SourceError
from foldrank.installed import require
from foldrank.model.gguf_header import Header, is_gguf, read_header
from foldrank.model.gguf_rules import reasons
from foldrank.pointers import refuse_pointer
from foldrank.progress import SILENT, Progress
from foldrank.verified import sha256_of

_MADE = "1"
"""Counts the ways in which the folder has been made: another number, another folder."""

_CHILD = [sys.executable, "-m", "foldrank.model.gguf_child"]
_QUIET = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TQDM_DISABLE": "1",
          "TRANSFORMERS_VERBOSITY": "error"}
_ORIGINAL = "give the safetensors checkpoint that it was converted from"


@dataclass(frozen=True)
class Gguf:
    """A GGUF file and the checkpoint made of it."""

    file: Path
    sha256: str
    folder: Path

    def source(self) -> dict[str, str]:
        """What a manifest says of it."""
        return {"gguf": self.file.name, "gguf_sha256": self.sha256}

    def stored(self) -> dict[str, int | list[str]]:
        """How the file itself holds what the checkpoint holds as floats: its bytes, and the types of its tensors."""
        return {"gguf_bytes": self.file.stat().st_size, "gguf_types": _types(read_header(self.file))}


def gguf_of(path: Path) -> Path | None:
    """The GGUF file that a path means: itself, or the one of a folder that holds no safetensors; else None. Raises
    SourceError where a folder holds several."""
    if path.is_file():
        with path.open("rb") as file:
            return path if is_gguf(path, file.read(4)) else None
    if not path.is_dir() or any(path.glob("*.safetensors")):
        return None
    found = sorted(path.glob("*.gguf"))
    if len(found) > 1:
        raise SourceError(path, f"holds {len(found)} GGUF files ({', '.join(file.name for file in found[:3])})",
                          "give one of them")
    return found[0] if found else None


def opened(file: Path, progress: Progress = SILENT) -> Gguf:
    """The checkpoint of a GGUF file, made where the cache does not have it. Raises SourceError where it is damaged or
    not known to come out right, ProviderUnavailable where `gguf` or `accelerate` is not installed."""
    refuse_pointer(file)
    header = read_header(file)
    if found := [*reasons(header)]:
        raise SourceError(file, "this GGUF file cannot be read as a checkpoint: " + " | ".join(found[:5]), _ORIGINAL)
    digest = sha256_of(file)
    place, stage = _place(digest), f"read {file.name}"
    if not place.is_dir():
        require({"torch": "torch", "transformers": "torch", "gguf": "gguf", "accelerate": "gguf"})
        progress.start(stage, None)
        try:
            with staged_folder(place) as folder:
                _convert(file, folder)
                (folder / "README.md").write_text(_card(file, header), encoding="utf-8")
        except SourceError:
            if not place.is_dir():  # else another process was faster
                raise
        finally:
            progress.finish(stage)
    return Gguf(file, digest, place)


def _place(digest: str) -> Path:
    """In the cache, or where nothing is to be kept in a folder that goes with the process."""
    if (kept := cache_folder("gguf")) is not None:
        return kept / f"{digest}.{_MADE}"
    if digest not in _PASSING:
        _PASSING[digest] = Path(tempfile.mkdtemp(prefix="foldrank-gguf-"))
        atexit.register(shutil.rmtree, _PASSING[digest], ignore_errors=True)
    return _PASSING[digest] / digest


_PASSING: dict[str, Path] = {}


def _convert(file: Path, folder: Path) -> None:
    """Let a process of its own write the checkpoint. Raises SourceError with its last word."""
    done = subprocess.run([*_CHILD, str(file.absolute()), str(folder)], env={**os.environ, **_QUIET}, text=True,
                          stdin=subprocess.DEVNULL, capture_output=True, errors="replace", check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        why = said[-1][:300] if said else f"exit code {done.returncode}"
        if done.returncode < 0:
            why = f"its process was ended by {signal.Signals(-done.returncode).name}"
        raise SourceError(file, f"transformers cannot read it: {why}", _ORIGINAL)


def _card(file: Path, header: Header) -> str:
    licence = header.values.get("general.license")
    front = f"---\nlicense: {licence}\n---\n" if isinstance(licence, str) and licence.isprintable() else ""
    types = ", ".join(_types(header))
    return f"{front}Read from {file.name} ({types}); its weights lie where that file's bits put them.\n"


def _types(header: Header) -> list[str]:
    return sorted({tensor.type for tensor in header.tensors.values()})
