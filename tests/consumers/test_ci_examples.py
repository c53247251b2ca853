"""Workflows, ours and the examples', fit the systems' own schemas; the examples' commands run on a small model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest
import yaml

RECIPE = "methods: ['slm:keep=0.84,windows=2,tokens=128']\ncalibration_tokens: 1024\n"
LATEST = "release"


@pytest.mark.parametrize(("name", "schema"), [
    ("examples/ci/github.yml", "github-workflows"), ("examples/ci/gitlab.yml", "gitlab-ci"),
    (".github/workflows/ci.yml", "github-workflows"), (".github/ISSUE_TEMPLATE/config.yml", "github-issue-config"),
    (".github/ISSUE_TEMPLATE/fault.yml", "github-issue-forms"),
    (".github/ISSUE_TEMPLATE/model.yml", "github-issue-forms"),
])
def test_a_workflow_or_form_fits_its_systems_schema(name: str, schema: str, root: Path) -> None:
    pytest.importorskip("check_jsonschema", reason="needs check-jsonschema: make consumers")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", str(root / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_commands_run_and_their_results_are_read(tiny_models: Path, root: Path, tmp_path: Path) -> None:
    """GitLab's script as its runner runs it, in one shell; the second time the first bundle is the release before."""
    script = yaml.safe_load((root / "examples/ci/gitlab.yml").read_text())["compress-and-judge"]["script"]
    lines = [line for line in script if not line.startswith("pip ")]
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "foldrank").write_text(f'#!/bin/sh\nexec {sys.executable} -m foldrank "$@"\n')
    (bin_folder / "foldrank").chmod(0o755)
    env = {**os.environ, "MODEL": str(tiny_models / "llama" / "checkpoint"), "RECIPE": "recipe.yaml",
           "PATH": f"{bin_folder}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}

    def run(lines: list[str]) -> None:
        done = subprocess.run(["sh", "-e", "-c", "\n".join(lines)], cwd=tmp_path, env=env, capture_output=True,
                              text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]

    run(lines)
    (tmp_path / "build" / "bundle").rename(tmp_path / LATEST)
    run([f"cp -r {LATEST} build/bundle", *(line for line in lines if line.startswith("test "))])
    parser = pytest.importorskip("junitparser", reason="needs junitparser: make consumers")
    for name in ("selftest", "validate", "bench", "release"):
        path = tmp_path / "build" / f"{name}.xml"
        [suite] = parser.JUnitXml.fromfile(str(path))
        assert (suite.failures, suite.errors) == (0, 0)
        assert suite.tests == len(list(Xml.parse(path).getroot()[0])) > 0
