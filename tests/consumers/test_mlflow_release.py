"""A gate against the release that an MLflow registry holds: by version, by alias, and the latest."""

from __future__ import annotations

from pathlib import Path

import pytest
from sample_reports import validation
from synthetic.bundles import write_bundle
from synthetic.decoders import Shape, random_decoder

from foldrank.bundle.bundle import Bundle
from foldrank.errors import SourceError
from foldrank.reports.limits import QualityLimits
from foldrank.reports.validate import FORM
from foldrank.verbs.released import INSIDE, released, uri

mlflow = pytest.importorskip("mlflow", reason="needs mlflow: make consumers")
REPORT = FORM.parse(validation())


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Bundle]:
    """Two versions of `specs`, the first with the alias `champion`; a model of another kind, `other`."""
    pytest.importorskip("alembic", reason="MLflow keeps a registry in a database with it")
    monkeypatch.chdir(tmp_path)  # a database keeps artifacts in ./mlruns
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'store.db'}")
    mlflow.set_tracking_uri(None)
    client, made = mlflow.MlflowClient(), []
    for name, blocks in (("specs", 1), ("specs", 2), ("other", 0)):
        model = tmp_path / f"{name}-{blocks}"
        (model / "artifacts").mkdir(parents=True)
        (model / "MLmodel").write_text("flavors: {}\n")
        if blocks:
            made.append(write_bundle(random_decoder(Shape(blocks=blocks)), model / INSIDE)
                        .with_files({FORM.file: FORM.data(REPORT)}))
        with mlflow.start_run(experiment_id="0") as run:  # not what another test made the one in use
            mlflow.log_artifacts(str(model), "model")
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id)
    client.set_registered_model_alias("specs", "champion", "1")
    return made


def test_a_release_is_had_by_version_alias_and_name(registry: list[Bundle]) -> None:
    first, second = registry
    for asked, wanted in (("mlflow:specs/1", first), ("mlflow:specs@champion", first), ("mlflow:specs/2", second),
                          ("mlflow:specs", second), ("mlflow:models:/specs/1", first)):
        with released(asked) as found:
            assert found is not None
            assert found.manifest == wanted.manifest
            gates = QualityLimits(release=found).gates(REPORT, second)
            assert [gate.passed for gate in gates] == [True, True, wanted is second]  # the first is smaller
        assert not found.path.exists()


def test_what_is_not_there_or_of_another_kind_is_an_error(registry: list[Bundle]) -> None:
    for asked, says in (("mlflow:nobody", "MLflow does not give it"), ("mlflow:specs/9", "MLflow does not give it"),
                        ("mlflow:other", "holds no bundle of foldrank's")):
        with pytest.raises(SourceError, match=says), released(asked):
            pass


def test_names_are_those_of_mlflow(tmp_path: Path) -> None:
    assert [uri(f"mlflow:{name}") for name in ("a", "a/3", "a@b", "models:/a/latest", "team/a")] == [
        "models:/a/latest", "models:/a/3", "models:/a@b", "models:/a/latest", "models:/team/a/latest"]
    with released(None) as nothing:
        assert nothing is None
    with pytest.raises(SourceError, match="no such folder"), released(str(tmp_path / "none")):
        pass
