"""setup.cfg names every package by hand: what is on disk and what is installed must agree."""

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


@pytest.fixture
def setup(root: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(root / "setup.cfg")
    return parser


def folder_of(package: str, mapping: dict[str, str], root: Path) -> Path:
    parent = max((p for p in mapping if package == p or package.startswith(p + ".")), key=len)
    return root / mapping[parent] / package.removeprefix(parent).strip(".").replace(".", "/")


def test_setup_cfg_lists_exactly_the_packages_on_disk(setup: configparser.ConfigParser, root: Path) -> None:
    listed = set(setup["options"]["packages"].split())
    mapping = dict(line.replace(" ", "").split("=") for line in setup["options"]["package_dir"].strip().splitlines())
    on_disk = set()
    for package, folder in mapping.items():
        for init in (root / folder).rglob("__init__.py"):
            inner = init.parent.relative_to(root / folder).as_posix().replace("/", ".")
            on_disk.add(package if inner == "." else f"{package}.{inner}")
    assert listed == on_disk
    assert all((folder_of(package, mapping, root) / "__init__.py").is_file() for package in listed)


@pytest.mark.parametrize("folder", ["graph", "export", "plans", "passes", "runtime", "benchmarks"])
def test_a_mapped_folder_refuses_to_be_a_second_top_level_package(folder: str, root: Path) -> None:
    found = subprocess.run([sys.executable, "-c", f"import {folder}"], cwd=root, capture_output=True, text=True)
    assert found.returncode == 1
    assert f"import foldrank.{folder}, not {folder}" in found.stderr


@pytest.fixture(scope="module")
def wheels(root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two, of the same files in other folders, of other times and for other users."""
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=root, capture_output=True, text=True,
                           check=True).stdout.split()
    return [_wheel(root, names, tmp_path_factory.mktemp("wheel"), zone) for zone in ("UTC", "Asia/Tokyo")]


def _wheel(root: Path, names: list[str], folder: Path, zone: str) -> Path:
    for name in names:
        if (root / name).is_file() and not name.startswith(("tests/", "examples/specs")):
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, folder / "source" / name)
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=folder / "source", check=True, capture_output=True,
                   env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000", "TZ": zone})
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_data_file(wheels: list[Path]) -> None:
    held = set(zipfile.ZipFile(wheels[0]).namelist())
    source = wheels[0].parent / "source"
    folders = {"src/foldrank": "foldrank", "graph": "foldrank/graph", "export": "foldrank/export",
               "plans": "foldrank/plans", "passes": "foldrank/passes", "runtime": "foldrank/runtime",
               "benchmarks": "foldrank/benchmarks", "examples/text": "foldrank/texts"}
    for folder, package in folders.items():
        for path in (source / folder).rglob("*"):
            if path.suffix in {".py", ".html", ".css", ".jsonl", ".md"} or path.name in ("py.typed", "contrib.json"):
                name = f"{package}/{path.relative_to(source / folder).as_posix()}"
                assert (name in held) != name.startswith("foldrank/benchmarks/campaigns/")


@pytest.mark.slow
def test_the_same_files_make_the_same_wheel(wheels: list[Path]) -> None:
    one, two = (wheel.read_bytes() for wheel in wheels)
    assert one == two
