"""MLflow (3.17): a packaged bundle is logged to a local store, registered, loaded back, and writes the same text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from continued import COUNT, own_tokens

from foldrank.plans.texts import load_tokenizer
from foldrank.verbs.package import package

mlflow = pytest.importorskip("mlflow", reason="needs mlflow: make consumers")
pandas = pytest.importorskip("pandas", reason="needs pandas: make consumers")
PROMPT = "This proposal adds"


@pytest.fixture(scope="module")
def packaged(dense_5m: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mlflow") / "model"
    package(dense_5m, folder, format="mlflow")
    return folder


@pytest.fixture(scope="module")
def wanted(dense_5m: Path) -> str:
    tokenizer: Any = load_tokenizer(dense_5m)
    return str(tokenizer.decode(own_tokens(dense_5m, tokenizer(PROMPT)["input_ids"])))


def test_it_is_logged_registered_loaded_and_writes_what_the_bundle_does(
    packaged: Path, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)  # a database keeps artifacts in ./mlruns
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'store.db'}" if _database() else (tmp_path / "store").as_uri())
    mlflow.set_experiment("bundles")
    with mlflow.start_run() as run:
        mlflow.log_metrics(json.loads((packaged / "metrics.json").read_text()))
        mlflow.log_artifacts(str(packaged), "model")
    version = mlflow.register_model(f"runs:/{run.info.run_id}/model", "specs")
    loaded = mlflow.pyfunc.load_model(f"models:/specs/{version.version}")
    found = loaded.predict(pandas.DataFrame({"prompt": [PROMPT, PROMPT]}), params={"max_tokens": COUNT})
    assert found == [wanted, wanted]
    assert mlflow.get_run(run.info.run_id).data.metrics["bytes"] > 10_000_000


def _database() -> bool:
    try:
        import alembic  # noqa: F401
    except ImportError:
        return False
    return True


def test_its_signature_takes_its_own_example_and_nothing_else(packaged: Path) -> None:
    model = mlflow.models.Model.load(str(packaged))
    loaded = mlflow.pyfunc.load_model(str(packaged))
    example = model.load_input_example(str(packaged))
    assert len(loaded.predict(example, params={"max_tokens": 2})) == 1
    with pytest.raises(mlflow.exceptions.MlflowException):
        loaded.predict(pandas.DataFrame({"other": ["a"]}))
    drawn = [loaded.predict(example, params={"max_tokens": 8, "temperature": 1.5, "seed": seed}) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_nothing_in_it_tells_where_it_was_made(packaged: Path) -> None:
    for path in packaged.rglob("*"):
        if path.is_file() and path.suffix in ("", ".yaml", ".json", ".py", ".txt"):
            assert str(packaged.parent) not in path.read_text(encoding="utf-8"), path
