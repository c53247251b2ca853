"""An MLflow model: a pyfunc with signature and input example, loaded from code; the bundle is its artefact.

`metrics.json` holds the reports' figures, flat, as `mlflow.log_metrics` takes them.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from foldrank.bundle.bundle import Bundle, FileEntry
from foldrank.installed import require
from foldrank.progress import SILENT, Progress
from foldrank.reporting.snippets import PROMPT
from foldrank.verbs.formats import copied, standalone_files

PARAMS: dict[str, Any] = {"max_tokens": 64, "temperature": 0.0, "top_p": 1.0, "top_k": 50, "seed": 0}
_NEEDED = ("numpy", "onnxruntime", "onnxruntime-genai")
_REPORTS = ("reports/validate.json", "reports/bench.json")


def write(bundle: Bundle, folder: Path, progress: Progress) -> dict[str, FileEntry]:
    """Fill an empty folder. Raises ExportError (no genai_config.json), BundleError, ProviderUnavailable (mlflow)."""
    require({"mlflow": "mlflow", "pandas": "mlflow"})
    standalone_files.refuse_without_genai(bundle, "the model")
    front = standalone_files.front(bundle)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.") as made:
        scratch = Path(made)
        source = scratch / "bundle"
        known = copied.copy(bundle, copied.whole(bundle), source, progress)
        for name in ("mlflow_model.py", standalone_files.GENERATION):
            (scratch / name).write_text(standalone_files.program(name), encoding="utf-8")
        (scratch / "settings.json").write_text(json.dumps({"front_tokens": front}), encoding="utf-8")
        _save(folder, scratch, bundle)
    _forget_places(folder / "MLmodel")
    (folder / "metrics.json").write_text(json.dumps(flat_metrics(bundle), indent=2, sort_keys=True) + "\n",
                                         encoding="utf-8")
    copied.copy(bundle, {name: entry for name, entry in copied.beside(bundle).items()
                         if name not in copied.TOKENIZER}, folder, SILENT)
    return {f"artifacts/bundle/{name}": entry for name, entry in known.items()}


def flat_metrics(bundle: Bundle) -> dict[str, float]:
    """Every number of the reports' quality, gates and speed-ups by a dotted name, and the bundle's bytes."""
    found: dict[str, float] = {"bytes": float(sum(entry.bytes for entry in bundle.manifest.files.values()))}
    validate, bench = (bundle.json(name) or {} for name in _REPORTS)
    found |= _numbers("quality", validate.get("quality", {}))
    found |= _numbers("graph", validate.get("graph", {}))
    for entry in bench.get("speedups", []):
        where = ".".join(str(part) for part in (entry["phase"], entry.get("engine"), entry.get("prompt_tokens"),
                                                entry.get("batch")) if part is not None)
        found[f"speedup.{where}"] = float(entry["ratio"])
    return found


def _numbers(where: str, values: Mapping[str, Any]) -> dict[str, float]:
    return {f"{where}.{key}": float(value) for key, value in values.items()
            if isinstance(value, int | float) and not isinstance(value, bool)}


def _save(folder: Path, scratch: Path, bundle: Bundle) -> None:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before it is imported
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow
    import pandas
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    types = {int: DataType.long, float: DataType.double}
    signature = ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "prompt")]), outputs=Schema([ColSpec(DataType.string)]),
        params=ParamSchema([ParamSpec(name, types[type(value)], value) for name, value in PARAMS.items()]))
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    with _importable(scratch), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of hints, which the signature stands in for
        mlflow.pyfunc.save_model(
            str(folder), python_model=str(scratch / "mlflow_model.py"),
            artifacts={"bundle": str(scratch / "bundle"), "settings": str(scratch / "settings.json")},
            code_paths=[str(scratch / standalone_files.GENERATION)], signature=signature,
            input_example=pandas.DataFrame({"prompt": [PROMPT]}),
            pip_requirements=[f"{name}=={metadata.version(name)}" for name in _NEEDED],
            metadata={"foldrank_source": dict(bundle.manifest.source).get("name", ""), "dtype": bundle.manifest.dtype})


def _forget_places(path: Path) -> None:
    """MLflow notes where files came from, which it never reads again: a folder of ours that is gone."""
    model = yaml.safe_load(path.read_text(encoding="utf-8"))
    flavour = model["flavors"]["python_function"]
    flavour["model_code_path"] = Path(flavour["model_code_path"]).name
    for artifact in flavour["artifacts"].values():
        artifact["uri"] = artifact["path"]
    path.write_text(yaml.safe_dump(model, sort_keys=True), encoding="utf-8")


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """MLflow runs the model's code once; what it imports lies in the folder, and is forgotten afterwards."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop(Path(standalone_files.GENERATION).stem, None)
