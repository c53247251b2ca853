"""The bundle that was released: a folder, or a model of an MLflow registry that `package --format mlflow` made."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from foldrank.bundle.bundle import Bundle
from foldrank.errors import SourceError
from foldrank.installed import require

SCHEME = "mlflow:"
INSIDE = Path("artifacts") / "bundle"
"""Where the bundle lies in such a model (`formats/mlflow.py`)."""

_NUMBERED = re.compile(r"models:/.+(/\d+|/latest|@.+)", re.DOTALL)


@contextmanager
def released(asked: str | None) -> Iterator[Bundle | None]:
    """The bundle of `DIR`, or of `mlflow:NAME`, `mlflow:NAME/VERSION` or `mlflow:NAME@ALIAS`, which is fetched and goes
    at the end; None where nothing was asked for. MLFLOW_TRACKING_URI and MLFLOW_REGISTRY_URI say which registry.

    Raises what `Bundle.open` raises; ProviderUnavailable (no mlflow); SourceError: no such model, or of another kind.
    """
    if asked is None or not asked.startswith(SCHEME):
        yield None if asked is None else Bundle.open(asked)
        return
    with TemporaryDirectory(prefix="foldrank.") as scratch:
        folder = _fetched(asked, Path(scratch)) / INSIDE
        if not folder.is_dir():
            raise SourceError(asked, "holds no bundle of foldrank's", "register what `package --format mlflow` wrote")
        yield Bundle.open(folder)


def uri(asked: str) -> str:
    """As MLflow names a model: `models:/NAME/VERSION` or `models:/NAME@ALIAS`; the latest where none is said."""
    name = "models:/" + asked.removeprefix(SCHEME).removeprefix("models:").lstrip("/")
    return name if _NUMBERED.fullmatch(name) else f"{name}/latest"


def _fetched(asked: str, scratch: Path) -> Path:
    require({"mlflow": "mlflow"})
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before it is imported
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri(asked), dst_path=str(scratch)))
    except (mlflow.exceptions.MlflowException, OSError) as error:
        what = f"MLflow does not give it: {' '.join(str(error).split())[:400]}"
        raise SourceError(asked, what, "NAME, NAME/VERSION or NAME@ALIAS; MLFLOW_TRACKING_URI says where") from None
