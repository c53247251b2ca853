"""Findings on disk, so that an interrupted plan goes on where it stopped: one file each, in the user's cache folder.

A plan's folder is named by the sha256 of what its findings follow from (checkpoint, tokens, seed, device, code), a
stage's part of it by the settings too. Files are safetensors with JSON inside, written whole or not at all. A lock
names the process that works there; a dead one's is taken over, and beside a living one a plan works in a folder of its
own. The folder goes when the plan is made. FOLDRANK_NO_CACHE keeps everything in memory instead.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import foldrank
from foldrank.cache import cache_folder
from foldrank.errors import SourceError
from foldrank.plans.shelf import Finding, MemoryShelf, Shelf
from foldrank.versions import versions

FORGET_S = 30 * 24 * 3600
"""Age at which what an interrupted plan left is thrown away."""


def code_version(*folders: Path) -> str:
    """sha256 over the sources of these folders (default: the planner's and the vocabulary's, which it computes with) at
    every depth, and the versions of what it calls: another version's findings are never taken for this one's."""
    digest = hashlib.sha256(repr([*sorted(versions().items()), _scipy()]).encode())
    for folder in folders or (Path(__file__).parent, Path(foldrank.__file__).parent):
        for source in sorted(folder.rglob("*.py")):
            digest.update(f"{source.relative_to(folder).as_posix()}\0".encode())
            digest.update(hashlib.sha256(source.read_bytes()).digest())
    return digest.hexdigest()


def _scipy() -> str:
    """The version of scipy, whose programs decide; empty where it is not installed."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version("scipy")
    return ""


@contextmanager
def open_shelf(*inputs: str) -> Iterator[Shelf]:
    """A shelf for the plan that follows from these inputs. Thrown away when the plan is made or refused (ValueError),
    kept when it is cut short."""
    base = _cache()
    if base is None:
        yield MemoryShelf()
        return
    folder = base / _sha256(*inputs)
    folder.mkdir(parents=True, exist_ok=True)
    if not _lock(folder):
        with tempfile.TemporaryDirectory(prefix="beside.", dir=base) as own:
            yield FolderShelf(Path(own))
        return
    try:
        yield FolderShelf(folder)
        shutil.rmtree(folder, ignore_errors=True)
    except ValueError:  # the same again would be refused again
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        (folder / "lock").unlink(missing_ok=True)


@dataclass(frozen=True)
class _Stored(Mapping[str, Tensor]):
    """Tensors of one file, each read when asked for."""

    path: Path

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self.path, framework="pt") as file:
            if name not in set(file.keys()):
                raise KeyError(name)
            return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        with safe_open(self.path, framework="pt") as file:
            return iter(list(file.keys()))

    def __len__(self) -> int:
        return len(list(iter(self)))


@dataclass(frozen=True)
class _StoredFinding(Finding):
    """A finding on disk: rows are read without the rest of their tensor."""

    path: Path = Path()

    def rows(self, name: str, count: int) -> Tensor:
        with safe_open(self.path, framework="pt") as file:
            return file.get_slice(name)[:count]


@dataclass(frozen=True)
class FolderShelf:
    """A shelf in a folder. Raises SourceError where the disk is full."""

    folder: Path
    stage: str = ""

    def under(self, stage: str) -> Shelf:
        """The shelf of a stage, in the same folder."""
        return FolderShelf(self.folder, _sha256(self.stage, stage))

    def get(self, name: str) -> Finding | None:
        """What was put there by this process or one before it, or None."""
        path = self._path(name)
        if not path.is_file():
            return None
        with safe_open(path, framework="pt") as file:
            values: dict[str, Any] = json.loads(file.metadata()["values"])
        return _StoredFinding(_Stored(path), values, path)

    def put(self, name: str, finding: Finding) -> Finding:
        """Write it, whole or not at all."""
        path = self._path(name)
        path.parent.mkdir(exist_ok=True)
        draft = path.with_suffix(".draft")
        tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in finding.tensors.items()}
        try:
            save_file(tensors, draft, metadata={"values": json.dumps(dict(finding.values))})
            with draft.open("rb") as file:
                os.fsync(file.fileno())
        except (OSError, SafetensorError) as error:
            draft.unlink(missing_ok=True)
            raise SourceError(
                path.parent, f"what was found so far cannot be written: {error}",
                "make room and run the same command again, or set FOLDRANK_NO_CACHE to keep it in memory",
            ) from None
        draft.replace(path)
        return self.get(name) or finding

    def drop(self, name: str) -> None:
        """Delete it."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / (self.stage or "plan") / f"{name}.safetensors"


def _cache() -> Path | None:
    folder = cache_folder("plans")
    if folder is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a cache that cannot be written is no cache
        return None
    for old in folder.iterdir():
        with contextlib.suppress(OSError):  # another process may have just removed it
            if time.time() - old.stat().st_mtime > FORGET_S and not _owner_lives(old / "lock"):
                shutil.rmtree(old, ignore_errors=True)
    return folder


def _lock(folder: Path) -> bool:
    """Take the folder, from a dead owner too; False where a living process has it."""
    lock = folder / "lock"
    draft = folder / f"lock.{os.getpid()}"
    draft.write_text(json.dumps({"pid": os.getpid(), "boot_id": _boot_id()}), encoding="ascii")
    try:
        for _ in range(2):
            with contextlib.suppress(FileExistsError):
                os.link(draft, lock)
                return True
            if _owner_lives(lock):
                return False
            lock.unlink(missing_ok=True)
        return False
    finally:
        draft.unlink()


def _owner_lives(lock: Path) -> bool:
    try:
        owner = json.loads(lock.read_text(encoding="ascii"))
        if owner["boot_id"] != _boot_id():
            return False
        os.kill(owner["pid"], 0)
    except (FileNotFoundError, ProcessLookupError, ValueError, KeyError, TypeError):
        return False
    except PermissionError:
        return True
    return True


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _sha256(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
