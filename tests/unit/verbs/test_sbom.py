"""Bills of materials: of CycloneDX's form by its own library, with the digests of the files, the same twice."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from sample_reports import validation
from synthetic import PlanMaker, Shape, random_decoder, write_bundle

from foldrank.bundle.bundle import seal
from foldrank.cli import main
from foldrank.verbs.apply import apply
from foldrank.verbs.bom import of_install
from foldrank.verbs.bom.document import licence
from foldrank.verbs.sbom import sbom


@pytest.fixture(autouse=True)
def one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compressed bundle that was validated."""
    folder, decoder = tmp_path_factory.mktemp("sbom"), random_decoder(Shape())
    dense = write_bundle(decoder, folder / "dense")
    made = apply(dense, PlanMaker(decoder, dense.manifest.source["config_sha256"]).low_rank("block.03.q", 5).plan(),
                 folder / "small")
    made.with_files({"reports/validate.json": json.dumps(validation()).encode()})
    return folder / "small"


def valid(path: Path) -> dict[str, Any]:
    """The document, which CycloneDX's library holds to the schema."""
    pytest.importorskip("cyclonedx")
    pytest.importorskip("jsonschema")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(path.read_text()) is None
    return dict(json.loads(path.read_text()))


def told(part: dict[str, Any]) -> dict[str, str]:
    return {entry["name"].removeprefix("foldrank:"): entry["value"] for entry in part["properties"]}


def test_the_check_itself_sees_what_the_schema_forbids(small: Path, tmp_path: Path) -> None:
    sbom(small, tmp_path / "bom.json")
    (tmp_path / "bom.json").write_text((tmp_path / "bom.json").read_text().replace("SHA-256", "SHA-257"))
    with pytest.raises(AssertionError):
        valid(tmp_path / "bom.json")


def test_a_bundle_is_its_files_its_source_its_steps_and_what_made_it(small: Path, tmp_path: Path) -> None:
    sbom(small, tmp_path / "bom.json")
    found = valid(tmp_path / "bom.json")
    held = {part["name"]: part["hashes"][0]["content"] for part in found["components"]}
    assert held == {path.relative_to(small).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
                    for path in small.rglob("*") if path.is_file()}
    model = found["metadata"]["component"]
    assert (model["type"], model["name"], told(model)["compressed"]) == ("machine-learning-model", "tiny", "True")
    config = json.loads((small / "manifest.json").read_text())["source"]["config_sha256"]
    assert told(model["pedigree"]["ancestors"][0])["config_sha256"] == config
    measured = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert {row["type"]: row["value"] for row in measured}["perplexity"] == str(validation()["quality"]["perplexity"])
    made = found["formulation"][0]
    assert f"pkg:pypi/onnx@{metadata.version('onnx')}" in {part["purl"] for part in made["components"]}
    assert told(made)["plan"] == json.loads((small / "plan" / "plan.json").read_text())["digest"]


@pytest.mark.parametrize(("source", "wanted"), [
    ({}, None),
    ({"license": "apache-2.0"}, [{"license": {"id": "Apache-2.0"}}]),
    ({"license": "mit,gemma"}, [{"license": {"id": "MIT"}}, {"license": {"name": "gemma"}}]),
    ({"license": "other", "license_name": "Own 1", "license_link": "https://example.org/own"},
     [{"license": {"name": "Own 1", "url": "https://example.org/own"}}]),
    ({"license_name": "Own 1", "license_link": "https://a b<c"}, [{"license": {"name": "Own 1"}}]),
    ({"license_name": "Own 1", "license_link": "LICENSE"}, [{"license": {"name": "Own 1"}}]),
])
def test_a_checkpoints_licence_is_told_as_it_is_stated(
    source: dict[str, str], wanted: list[dict[str, Any]] | None, tmp_path: Path
) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "model.onnx").write_bytes(b"graph")
    seal(tmp_path / "b", command="test", seed=0, source=source, exporter="genai", dtype="fp32", versions={})
    sbom(tmp_path / "b", tmp_path / "bom.json")
    assert valid(tmp_path / "bom.json")["metadata"]["component"].get("licenses") == wanted


def test_the_same_bundle_has_the_same_bytes_wherever_it_lies(small: Path, tmp_path: Path) -> None:
    sbom(small, tmp_path / "one.json")
    sbom(shutil.copytree(small, tmp_path / "elsewhere"), tmp_path / "two.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert str(small) not in (tmp_path / "one.json").read_text()


def test_an_install_is_what_its_requirements_reach(tmp_path: Path) -> None:
    sbom(None, tmp_path / "bom.json", install=True)
    found = valid(tmp_path / "bom.json")
    parts = {part["name"].lower(): part for part in found["components"]}
    for name in ("numpy", "onnx", "PyYAML", "pydantic_core"):
        assert parts[name.lower()]["version"] == metadata.version(name)
    assert parts["pyyaml"]["purl"] == f"pkg:pypi/pyyaml@{metadata.version('pyyaml')}"
    assert "pip" not in parts
    needs = {row["ref"]: row["dependsOn"] for row in found["dependencies"]}
    assert parts["pydantic_core"]["purl"] in needs[parts["pydantic"]["purl"]]
    assert found["metadata"]["component"]["purl"] in needs


def test_markers_and_extras_decide_what_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the root every extra, of others those asked for; what a marker excludes or nobody installed is left out."""
    for name, version, lines in (
        ("made-up-root", "1", ["Provides-Extra: x", "Requires-Dist: made-up-a[y]", "License-Expression: MIT OR ISC",
                               "Requires-Dist: made-up-b; extra == 'x'", "Requires-Dist: made-up-never"]),
        ("made-up-a", "2+cpu", ["Requires-Dist: made_up.c; extra == 'y'", "Requires-Dist: made-up-d; extra == 'z'",
                                "Classifier: License :: OSI Approved :: MIT License"]),
        ("made-up-b", "3", ["Requires-Dist: made-up-root", "Requires-Dist: made-up-d; sys_platform == 'never'"]),
        ("made-up-c", "4", ["License: bsd-3-clause"]), ("made-up-d", "5", []),
    ):
        place = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        place.mkdir()
        (place / "METADATA").write_text("\n".join(["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}",
                                                   *lines, ""]))
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.setattr(of_install, "ROOT", "made-up-root")
    sbom(None, tmp_path / "bom.json", install=True)
    found = valid(tmp_path / "bom.json")
    a, b, c = "pkg:pypi/made-up-a@2%2Bcpu", "pkg:pypi/made-up-b@3", "pkg:pypi/made-up-c@4"
    root = "pkg:pypi/made-up-root@1"
    assert {part["purl"]: part.get("licenses") for part in found["components"]} == {
        a: [{"license": {"name": "MIT License"}}], b: None, c: [{"license": {"id": "BSD-3-Clause"}}]}
    assert found["metadata"]["component"]["licenses"] == [{"expression": "MIT OR ISC"}]
    assert {row["ref"]: row["dependsOn"] for row in found["dependencies"]} == {root: [a, b], a: [c], b: [root], c: []}


def test_every_licence_we_tell_by_id_is_in_the_schemas_list() -> None:
    pytest.importorskip("cyclonedx")
    from cyclonedx.spdx import is_supported_id

    from foldrank.verbs.bom.document import _SPDX

    assert [name for name in _SPDX.values() if not is_supported_id(name)] == []
    assert licence("APACHE-2.0") == {"license": {"id": "Apache-2.0"}}


@pytest.mark.parametrize(("arguments", "code", "says"), [
    (["-o", "new"], 2, "give a bundle, or --install"), (["small", "--install", "-o", "new"], 2, "give a bundle"),
    (["small", "-o", "small/new"], 3, "lies in the bundle"), (["small"], 2, "--output"),
    (["--install", "-o", "small"], 3, "exists already"), (["--install", "-o", "small", "--force"], 3, "plain file"),
    (["nowhere", "-o", "new"], 3, "no such folder"),
])
def test_what_cannot_be_written_is_refused(
    small: Path, arguments: list[str], code: int, says: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(small.parent)
    assert main._run(["sbom", *arguments]) == code
    assert says in capsys.readouterr().err
    assert not (small.parent / "new").exists()
