"""setup.cfg names every package by hand: what is on disk and what is installed must agree."""

import configparser
import subprocess
import sys
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


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_data_file(root: Path, tmp_path: Path) -> None:
    import shutil
    import zipfile

    source = tmp_path / "source"
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=root, capture_output=True, text=True,
                           check=True).stdout.split()
    for name in names:
        if (root / name).is_file() and not name.startswith(("tests/", "examples/specs")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, source / name)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(source)],
                   check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    folders = {"src/foldrank": "foldrank", "graph": "foldrank/graph", "export": "foldrank/export",
               "plans": "foldrank/plans", "passes": "foldrank/passes", "runtime": "foldrank/runtime",
               "benchmarks": "foldrank/benchmarks", "examples/text": "foldrank/texts"}
    for folder, package in folders.items():
        for path in (source / folder).rglob("*"):
            if path.suffix in {".py", ".html", ".css", ".jsonl", ".md"} or path.name == "py.typed":
                name = f"{package}/{path.relative_to(source / folder).as_posix()}"
                assert (name in held) != name.startswith("foldrank/benchmarks/campaigns/")
