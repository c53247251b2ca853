"""TensorRT's libraries: where they are looked for, and what is said where they are not. The libraries only pretend."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from foldrank.errors import ProviderUnavailable
from foldrank.runtime.providers import libnvinfer
from foldrank.runtime.providers.libnvinfer import load_tensorrt, package_folders, version_text

NAMES = ["libnvinfer.so.10", "libnvinfer_plugin.so.10", "libnvonnxparser.so.10"]


class System:
    """Opens the names and paths that are there, as the system's loader would, and remembers what was asked."""

    def __init__(self, *there: str, broken: str = "") -> None:
        self.there, self.broken, self.asked = there, broken, list[str]()

    def __call__(self, name: str) -> Any:
        self.asked.append(name)
        if name == self.broken:
            raise OSError("libcudart.so.13: cannot open shared object file: No such file or directory")
        if name not in self.there:
            raise OSError(f"{name}: cannot open shared object file: No such file or directory")
        return SimpleNamespace(getInferLibVersion=lambda: 101601)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder as the Python package has it."""
    for name in NAMES:
        (tmp_path / name).touch()
    return tmp_path


def test_what_the_system_finds_is_taken_and_tells_its_version() -> None:
    system = System(*NAMES)
    assert load_tensorrt(system, []) == "10.16.1"
    assert system.asked == NAMES


def test_else_the_python_package_is_taken(package: Path) -> None:
    assert load_tensorrt(System(*(str(package / name) for name in NAMES)), [package.parent, package]) == "10.16.1"


def test_what_is_missing_is_named_with_where_to_get_it() -> None:
    with pytest.raises(ProviderUnavailable) as caught:
        load_tensorrt(System(), [])
    assert str(caught.value).startswith(
        "provider tensorrt: TensorRT's libnvinfer.so.10 is missing; pip install 'tensorrt-cu13>=10,<11'")
    with pytest.raises(ProviderUnavailable, match=r"libnvonnxparser\.so\.10 is missing"):
        load_tensorrt(System(*NAMES[:2]), [])


def test_another_major_version_is_said_to_be_the_wrong_one(tmp_path: Path) -> None:
    said = r"libnvinfer\.so\.10 is missing: version 11 is here, but onnxruntime [\d.]+ is built for TensorRT 10; pip"
    with pytest.raises(ProviderUnavailable, match=said):
        load_tensorrt(System("libnvinfer.so.11"), [])
    (tmp_path / "libnvinfer.so.11").touch()
    with pytest.raises(ProviderUnavailable, match=said):
        load_tensorrt(System(), [tmp_path])


def test_a_library_that_lacks_another_says_which(package: Path) -> None:
    with pytest.raises(ProviderUnavailable, match=r"libnvinfer\.so\.10 does not load: libcudart\.so\.13"):
        load_tensorrt(System(broken=str(package / NAMES[0])), [package])


def test_the_real_loader_says_the_same_of_a_file_that_is_none(package: Path) -> None:
    def without_system(name: str) -> Any:
        return libnvinfer._for_all(name) if "/" in name else System()(name)

    with pytest.raises(ProviderUnavailable, match=r"libnvinfer\.so\.10 does not load: .*file too short"):
        load_tensorrt(without_system, [package])


def test_the_real_loader_makes_them_known_to_later_ones(tmp_path: Path) -> None:
    """A compiled stand-in in a process of its own: its version is asked as TensorRT's is, and the process knows it."""
    source = tmp_path / "stand_in.c"
    source.write_text("int getInferLibVersion(void) { return 101302; }\n")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    for name in NAMES:
        made = [compiler, "-shared", "-fPIC", str(source), "-o", str(tmp_path / name), f"-Wl,-soname,{name}"]
        subprocess.run(made, check=True)
    program = (
        "import ctypes, pathlib, sys\n"
        "from foldrank.runtime.providers.libnvinfer import load_tensorrt\n"
        "print(load_tensorrt(folders=[pathlib.Path(sys.argv[1])]), ctypes.CDLL(None).getInferLibVersion())\n"
    )
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path / "none")}
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True,
                          env=environment)
    assert done.stdout.split() == ["10.13.2", "101302"]


def test_folders_of_packages_are_found_without_importing_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in libnvinfer.PACKAGES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('must not be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert package_folders() == [tmp_path / name for name in libnvinfer.PACKAGES]


def test_versions_are_read_as_the_header_makes_them() -> None:
    assert [version_text(n) for n in (100000, 100900, 101601)] == ["10.0.0", "10.9.0", "10.16.1"]
