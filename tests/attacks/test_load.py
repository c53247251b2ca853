"""Hostile and broken models: refused with UnsafeModel, soon, in little memory, without a look outside the folder."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from synthetic import Shape, random_decoder, write_graph

from foldrank.errors import SourceError, UnsafeModel
from foldrank.graph.linear.weights import read
from foldrank.graph.safe.load import MAX_PROTO, load_model

DATA = "model.onnx.data"


@pytest.fixture
def model(tmp_path: Path) -> onnx.ModelProto:
    write_graph(random_decoder(Shape(blocks=2)), tmp_path / "model.onnx")
    return onnx.load(tmp_path / "model.onnx", load_external_data=False)


def refused(model: onnx.ModelProto | bytes, folder: Path, match: str) -> None:
    data = model if isinstance(model, bytes) else model.SerializeToString()
    (folder / "model.onnx").write_bytes(data)
    start = time.process_time()  # of this process: others may keep the machine busy
    with pytest.raises(UnsafeModel, match=match) as caught:
        load_model(folder / "model.onnx")
    assert time.process_time() - start < 2
    assert caught.value.exit_code == 4
    assert len(str(caught.value)) < 3000


def entry(model: onnx.ModelProto, key: str, tensor: int = 0) -> onnx.StringStringEntryProto:
    return next(e for e in model.graph.initializer[tensor].external_data if e.key == key)


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



def _add_key(model: onnx.ModelProto, key: str, value: str = "1") -> None:
    model.graph.initializer[0].external_data.add(key=key, value=value)


def _overlap(model: onnx.ModelProto, same: bool) -> None:
    first, second = model.graph.initializer[2], model.graph.initializer[3]
    del second.external_data[:]
    second.external_data.extend(first.external_data)
    del second.dims[:]
    second.dims.extend(first.dims)
    if not same:
        next(e for e in second.external_data if e.key == "offset").value = str(int(entry(model, "offset", 2).value) + 4)


def _function(model: onnx.ModelProto) -> None:
    calls = helper.make_node("F", ["x"], ["y"])
    model.functions.append(helper.make_function("", "F", ["x"], ["y"], [calls], [helper.make_opsetid("", 22)]))


def _cycle(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.op_type == "Sub")
    node.input[0] = next(n for n in reversed(model.graph.node) if n.op_type == "MatMul").output[0]


def _set(path: str, value: object) -> Callable[[onnx.ModelProto], object]:
    *parents, last = path.split(".")

    def change(model: onnx.ModelProto) -> None:
        target: object = model
        for parent in parents:
            target = target[int(parent)] if parent.lstrip("-").isdigit() else getattr(target, parent)  # type: ignore[index]
        setattr(target, last, value)
    return change


BROKEN = {
    "past the end": (lambda m: setattr(entry(m, "offset", 0), "value", "999999999"), "truncated"),
    "size against shape": (lambda m: m.graph.initializer[2].dims.append(2), "needs"),
    "shape overflow": (lambda m: m.graph.initializer[2].dims.extend([1 << 62, 1 << 62]), "not possible"),
    "negative shape": (lambda m: m.graph.initializer[2].dims.append(-1), "not possible"),
    "dtype": (_set("graph.initializer.2.data_type", 99), "data type"),
    "string tensor": (_set("graph.initializer.2.data_type", TensorProto.STRING), "data type"),
    "key twice": (lambda m: _add_key(m, "offset"), "stands twice"),
    "unknown key": (lambda m: _add_key(m, "basepath"), "unknown"),
    "raw and external": (_set("graph.initializer.2.raw_data", b"1234"), "inline and external"),
    "float and external": (lambda m: m.graph.initializer[2].float_data.append(1), "inline and external"),
    "overlap": (lambda m: _overlap(m, False), "share bytes"),
    "same range": (lambda m: _overlap(m, True), "share bytes"),
    "not marked external": (_set("graph.initializer.2.data_location", 0), "not marked"),
    "function": (_function, "functions"),
    "initializer twice": (lambda m: m.graph.initializer.append(m.graph.initializer[0]), "twice"),
    "value twice": (lambda m: m.graph.node.append(m.graph.node[0]), "taken before"),
    "cycle": (_cycle, "cycle"),
    "no opset": (lambda m: m.ClearField("opset_import"), "no opset"),
    "opset 0": (_set("opset_import.0.version", 0), "opset 0"),
    "opset 9999": (_set("opset_import.0.version", 9999), "opset 9999"),
    "opset twice": (lambda m: m.opset_import.append(m.opset_import[0]), "twice"),
    "domain": (_set("opset_import.1.domain", "evil"), "evil"),
    "node domain": (_set("graph.node.3.domain", "ai.onnx.ml"), "not allowed"),
    "ir version": (_set("ir_version", 99), "IR version"),
    "no graph": (lambda m: m.ClearField("graph"), "empty"),
    "doc string": (_set("doc_string", "x" * (60 << 20)), "text of"),
    "node doc string": (_set("graph.node.0.doc_string", "x" * (2 << 20)), "text of"),
    "long name": (_set("graph.node.0.name", "x" * (2 << 20)), "text of"),
    "packed integers": (lambda m: m.graph.node[0].attribute[0].t.int64_data.extend([1] * (5 << 20)), "packed"),
    "many nodes": (lambda m: m.graph.node.extend([onnx.NodeProto()] * 700_000), "fields"),
    "sparse": (lambda m: m.graph.sparse_initializer.add(), "sparse"),
    "training": (lambda m: m.training_info.add(), "training"),
    "output nobody makes": (_set("graph.output.0.name", "nothing"), "outputs"),
    "attribute twice": (lambda m: m.graph.node[0].attribute.append(m.graph.node[0].attribute[0]), "attribute"),
    "inline size": (_set("graph.node.0.attribute.0.t.raw_data", b"123"), "needs"),
    "external attribute": (_set("graph.node.0.attribute.0.t.data_location", 1), "not an initializer"),
}


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_refuses_models(model: onnx.ModelProto, tmp_path: Path, name: str) -> None:
    change, match = BROKEN[name]
    change(model)
    refused(model, tmp_path, match)


def test_refuses_every_truncation(model: onnx.ModelProto, tmp_path: Path) -> None:
    data = model.SerializeToString()
    for length in [0, 1, 2, *range(3, len(data), max(1, len(data) // 150)), len(data) - 1]:
        refused(data[:length], tmp_path, "model.onnx")


def test_survives_flipped_bytes(model: onnx.ModelProto, tmp_path: Path) -> None:
    """Whatever a damaged file is, it is a model or an UnsafeModel."""
    data, rng = model.SerializeToString(), np.random.default_rng(0)
    for _ in range(300):
        spoiled = bytearray(data)
        for at in rng.integers(0, len(data), 3):
            spoiled[at] = rng.integers(0, 256)
        (tmp_path / "model.onnx").write_bytes(bytes(spoiled))
        try:
            load_model(tmp_path / "model.onnx")
        except UnsafeModel:
            continue


def test_refuses_deep_nesting(model: onnx.ModelProto, tmp_path: Path) -> None:
    inner = onnx.GraphProto()
    for _ in range(40):
        outer = onnx.GraphProto()
        node = outer.node.add(op_type="If")
        attribute = node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH)
        attribute.g.CopyFrom(inner)
        inner = outer
    model.graph.node[0].attribute.add(name="g", type=onnx.AttributeProto.GRAPH).g.CopyFrom(inner)
    refused(model, tmp_path, "deeper")


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


@pytest.mark.parametrize("name", ["doc string", "packed integers", "many nodes"])
def test_memory_stays_bounded(model: onnx.ModelProto, tmp_path: Path, name: str) -> None:
    """256 MiB over start-up, measured in a child as the peak of resident memory."""
    BROKEN[name][0](model)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    program = (
        "import resource, sys\nfrom foldrank.errors import UnsafeModel\n"
        "from foldrank.graph.safe.load import load_model\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\nbefore = peak()\n"
        "try: load_model(sys.argv[1])\nexcept UnsafeModel: print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "model.onnx")], capture_output=True, text=True,
                          check=True)
    assert int(done.stdout) < 256 << 10


def test_nodes_out_of_order_are_put_in_order(model: onnx.ModelProto, tmp_path: Path) -> None:
    wanted = [node.name for node in load_model(tmp_path / "model.onnx").graph]
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    found = list(load_model(tmp_path / "model.onnx").graph)
    assert sorted(node.name or "" for node in found) == sorted(name or "" for name in wanted)
    place = {node: number for number, node in enumerate(found)}
    made = [(v.producer(), n) for n in found for v in n.inputs if v is not None]
    assert all(place[maker] < place[reader] for maker, reader in made if maker is not None)


@pytest.mark.parametrize("name", ["model.onnx", DATA])
def test_a_git_lfs_pointer_is_called_one(model: onnx.ModelProto, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    with pytest.raises(SourceError, match=rf"{name}: is a Git LFS pointer.*git lfs pull"):
        load_model(tmp_path / "model.onnx")
