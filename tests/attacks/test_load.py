"""Models whose data lies elsewhere, or whose files are not plain: refused without a look outside the folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from hostile_graphs import entry, refused
from onnx import numpy_helper

from foldrank.errors import SourceError, UnsafeModel
from foldrank.graph.linear.weights import read
from foldrank.graph.safe.load import MAX_PROTO, load_model

DATA = "model.onnx.data"


def test_loads_a_sound_model_and_leaves_its_weights_on_disk(model: onnx.ModelProto, tmp_path: Path) -> None:
    loaded = load_model(tmp_path / "model.onnx")
    full = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "model.onnx").graph.initializer}
    assert {n: read(v.const_value).tobytes() for n, v in loaded.graph.initializers.items()} == {
        n: w.tobytes() for n, w in full.items()}


def test_loads_a_bare_name_from_the_current_folder(
    model: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tensor = next(iter(load_model(Path("model.onnx")).graph.initializers.values())).const_value
    assert os.path.isabs(tensor.path)
    entry(model, "location").value = "../x"
    refused(model, tmp_path, "plain path")


@pytest.mark.parametrize("location", [
    "../x", "a/../../x", "/etc/passwd", "C:x", "C:\\x", "\\\\host\\x", "//host/x", "", ".", "..", "a\0b", "x" * 5000,
    "a//b", "./model.onnx.data", "y" * 300, "*/_ORT_MEM_ADDR_/*", "a/_ORT_MEM_ADDR_/1",
])
def test_refuses_locations(model: onnx.ModelProto, tmp_path: Path, location: str) -> None:
    entry(model, "location").value = location
    refused(model, tmp_path, "external data location")


def _symlink(folder: Path) -> None:
    (folder / DATA).rename(folder / "real")
    (folder / DATA).symlink_to("real")


def _hard_link(folder: Path) -> None:
    os.link(folder / DATA, folder / "other")


def _fifo(folder: Path) -> None:
    (folder / DATA).unlink()
    os.mkfifo(folder / DATA)


def _directory(folder: Path) -> None:
    (folder / DATA).unlink()
    (folder / DATA).mkdir()


def _missing(folder: Path) -> None:
    (folder / DATA).unlink()


def _truncated(folder: Path) -> None:
    os.truncate(folder / DATA, (folder / DATA).stat().st_size - 1)


@pytest.mark.parametrize(("spoil", "match"), [
    (_symlink, "link"), (_hard_link, "hard links"), (_fifo, "not a plain file"), (_directory, "not a plain file"),
    (_missing, "No such file"), (_truncated, "truncated"),
])
def test_refuses_data_files(
    model: onnx.ModelProto, tmp_path: Path, spoil: Callable[[Path], None], match: str
) -> None:
    spoil(tmp_path)
    refused(model, tmp_path, match)


def test_refuses_a_linked_folder_on_the_way(model: onnx.ModelProto, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / DATA).rename(tmp_path / "deep" / "d")
    (tmp_path / "way").symlink_to("deep")
    entry(model, "location").value = "way/d"
    refused(model, tmp_path, "link")


def test_refuses_a_device(model: onnx.ModelProto, tmp_path: Path) -> None:
    (tmp_path / DATA).unlink()
    try:
        os.mknod(tmp_path / DATA, 0o20666, os.makedev(1, 5))
    except OSError:
        pytest.skip("no right to make a device")
    refused(model, tmp_path, "not a plain file")


@pytest.mark.parametrize("key", ["offset", "length"])
@pytest.mark.parametrize("value", ["-1", "1" * 30, "0x10", "1.5", "", "ten", " 1", "٣"])
def test_refuses_numbers(model: onnx.ModelProto, tmp_path: Path, key: str, value: str) -> None:
    entry(model, key, 1).value = value
    refused(model, tmp_path, "not a plain number")


def test_refuses_files_that_are_no_plain_file(tmp_path: Path, model: onnx.ModelProto) -> None:
    os.mkfifo(tmp_path / "fifo.onnx")
    (tmp_path / "link.onnx").symlink_to("model.onnx")
    (tmp_path / "folder.onnx").mkdir()
    for name in ("fifo.onnx", "link.onnx", "folder.onnx", "absent.onnx"):
        with pytest.raises(UnsafeModel):
            load_model(tmp_path / name)


def test_refuses_a_huge_file_unread(tmp_path: Path) -> None:
    with (tmp_path / "model.onnx").open("wb") as file:
        file.truncate(MAX_PROTO + 1)
    with pytest.raises(UnsafeModel, match="MiB"):
        load_model(tmp_path / "model.onnx")


@pytest.mark.parametrize("name", ["model.onnx", DATA])
def test_a_git_lfs_pointer_is_called_one(model: onnx.ModelProto, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    with pytest.raises(SourceError, match=rf"{name}: is a Git LFS pointer.*git lfs pull"):
        load_model(tmp_path / "model.onnx")
