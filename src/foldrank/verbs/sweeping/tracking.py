"""One MLflow run for each candidate: what changed, what it gave, where it lies."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KEY = "foldrank.key"


def track(uri: str, experiment: str, folder: Path, found: Mapping[str, Any]) -> None:
    """Log a result, once: a run with its key that is there already stays. Raises what mlflow raises."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before it is imported
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    mlflow.set_tracking_uri(uri)
    kept = mlflow.set_experiment(experiment)
    if len(mlflow.search_runs([kept.experiment_id], f"tags.`{KEY}` = '{found['key']}'", output_format="list")):
        return
    with mlflow.start_run(run_name=folder.name, tags={KEY: found["key"], "foldrank.plan": found["plan_sha256"]}):
        mlflow.log_params({"methods": " ".join(found["methods"]), **found["changes"]})
        numbers = {key: float(value) for key, value in found["quality"].items() if isinstance(value, int | float)}
        mlflow.log_metrics({"bytes": float(found["bytes"]), "seconds": found["seconds"], **numbers})
        mlflow.log_artifact(str(folder / "bundle" / "reports" / "validate.json"))
