"""Where engines of TensorRT and TensorRT RTX are kept: a folder of their own for everything an engine follows from.

An engine is built in minutes and fits one graph, one TensorRT and one card. ONNX Runtime names its files by the graph's
name and structure, not by its weights, so that two compressions of one model could be taken for each other; hence the
digest here. Timings of kernels fit any graph: engines for the same card, driver and TensorRT share them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from foldrank.cache import cache_folder
from foldrank.errors import UnsafeModel
from foldrank.runtime.providers.gpu import Gpu
from foldrank.runtime.providers.provider import load_onnxruntime
from foldrank.verified import sha256_of

FORGET_S = 90 * 24 * 3600
"""Age at which an engine that nobody opened is thrown away."""

Facts = Mapping[str, Any]


def cache_options(
    model: Path, data_files: Iterable[str], options: Mapping[str, str], tensorrt: str,
    *, cards: Callable[[], Facts | None] | None = None,
) -> dict[str, str]:
    """Options that keep engine and timings of a model.onnx; empty where nothing is to be kept, the folder cannot be
    written, or the card and its driver have no name.

    `options`: all others of the session; `tensorrt`: version; `cards`: what names card and driver. Raises UnsafeModel
    for a data file that is missing or outside the model's folder.
    """
    found = _folders("tensorrt", model, data_files, options, tensorrt, cards)
    if found is None:
        return {}
    engine, where = found
    timing = engine.parent / f"timing-{_digest(where)}"
    if not _kept(timing):
        return {}
    return {
        "trt_engine_cache_enable": "1", "trt_engine_cache_path": str(engine),
        "trt_timing_cache_enable": "1", "trt_timing_cache_path": str(timing),
    }


def rtx_cache_options(
    model: Path, data_files: Iterable[str], options: Mapping[str, str], package: str,
    *, cards: Callable[[], Facts | None] | None = None,
) -> dict[str, str]:
    """The same for TensorRT RTX, which keeps engines and kernels in one folder. `package`: its name and version."""
    found = _folders("tensorrt-rtx", model, data_files, options, package, cards)
    return {} if found is None else {"nv_runtime_cache_path": str(found[0])}


def _folders(
    kind: str, model: Path, data_files: Iterable[str], options: Mapping[str, str], version: str,
    cards: Callable[[], Facts | None] | None,
) -> tuple[Path, Facts] | None:
    """An engine's folder, which is there, and what it runs on; None where nothing is to be kept."""
    base = cache_folder(kind)
    machine = None if base is None else (cards or cards_and_driver)()
    if base is None or machine is None:
        return None
    where = {**machine, kind: version, "device_id": options.get("device_id", "0")}
    engine = base / engine_digest(model, data_files, options, where)
    return (engine, where) if _kept(engine) else None


def _kept(folder: Path) -> bool:
    """Whether it could be made, and was marked as used now; what nobody used for long goes."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
        _forget_old(folder.parent)
    except OSError:  # a cache that cannot be written is no cache
        return False
    return True


def engine_digest(model: Path, data_files: Iterable[str], options: Mapping[str, str], where: Facts) -> str:
    """sha256 of graph, weights, options, ONNX Runtime's version and `where` an engine runs (card, driver, TensorRT).

    Files are hashed rather than looked up in a manifest, so that a changed byte never meets an old engine; what
    `Bundle.open` has proved is remembered and costs nothing.
    """
    files = {name: sha256_of(_inside(model, name)) for name in (model.name, *data_files)}
    return _digest({"files": files, "options": dict(options), "onnxruntime": load_onnxruntime().__version__, **where})


def cards_and_driver() -> Facts | None:
    """Names of all cards and the driver's version, with what chooses among the cards; None where nothing tells.

    All cards, since the order in which CUDA counts them is not NVML's.
    """
    cards = Gpu.all()
    names, driver = [card.name for card in cards], cards[0].driver if cards else None
    if driver is None or None in names:
        return None
    chosen = {name: os.environ.get(name, "") for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")}
    return {"cards": names, "driver": driver, **chosen}


def _inside(model: Path, name: str) -> Path:
    folder = model.parent.resolve()
    path = (folder / name).resolve()
    if name != model.name and not path.is_relative_to(folder):
        raise UnsafeModel(model, f"its data file {name} lies outside its folder", "export or apply again")
    if not path.is_file():
        raise UnsafeModel(model, f"its data file {name} is missing", "export or apply again")
    return path


def _digest(facts: Facts) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _forget_old(base: Path) -> None:
    limit = time.time() - FORGET_S
    for folder in base.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process may have just removed it
            if folder.stat().st_mtime < limit:
                shutil.rmtree(folder, ignore_errors=True)
