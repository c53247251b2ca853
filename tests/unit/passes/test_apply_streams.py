"""Weights beyond 2 and 4 GiB, in several files, proved beside the writing; nothing of a failed proof stays."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.external_data_helper import set_external_data
from synthetic import PlanMaker, Shape, random_decoder, run_onnx, worst, write_bundle

from foldrank.bundle.bundle import Bundle, seal
from foldrank.digests import sha256_file
from foldrank.errors import PlanMismatch, SourceError
from foldrank.graph.safe.load import load_model
from foldrank.passes.hashed_file import HashedFile
from foldrank.verbs.apply import apply

IDS = np.arange(12)
DECODER = random_decoder(Shape(), seed=2)


def dense_of(tmp_path: Path, places: list[tuple[str, int]]) -> Bundle:
    """The decoder's bundle, its weights dealt out to files, each from an offset on (a hole before it)."""
    first = write_bundle(DECODER, tmp_path / "first")
    folder = tmp_path / "dense"
    folder.mkdir()
    model = onnx.load(first.model)
    ends = dict(places)
    for name in ends:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    for i, tensor in enumerate(model.graph.initializer):
        name = places[i % len(places)][0]
        with (folder / name).open("r+b" if (folder / name).exists() else "xb") as file:
            file.seek(ends[name])
            file.write(tensor.raw_data)
        set_external_data(tensor, name, ends[name], len(tensor.raw_data))
        tensor.ClearField("raw_data")
        ends[name] = ends[name] + len(onnx.numpy_helper.to_array(tensor, str(folder)).tobytes()) + 192 & -64
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    for name in ("config.json", "genai_config.json", "tokenizer.json"):
        (folder / name).write_bytes((first.path / name).read_bytes())
    made = first.manifest
    seal(folder, command="export", seed=0, source=made.source, exporter="genai", dtype="fp32", versions={})
    return Bundle.open(folder)


def plan_for(bundle: Bundle) -> PlanMaker:
    return PlanMaker(DECODER, bundle.manifest.source["config_sha256"]).fold((1, 2), {1: 0.0, 2: 1.0})


@pytest.mark.parametrize("places", [
    [("model.onnx.data", 0), ("weights/second.bin", 64), ("weights/third.bin", 4096)],
    [("model.onnx_data", 0), ("model.onnx_data_1", 0)],
])
def test_several_data_files_become_one(tmp_path: Path, places: list[tuple[str, int]]) -> None:
    dense = dense_of(tmp_path, places)
    made = plan_for(dense).low_rank("block.03.qkv", 5)
    small = apply(dense, made.plan(), tmp_path / "small")
    tensors = [v.const_value for v in load_model(small.model).graph.initializers.values()]
    assert {str(getattr(t, "location", "model.onnx.data")) for t in tensors} == {"model.onnx.data"}
    assert not set(small.manifest.files) & {name for name, _ in places} - {"model.onnx.data"}
    assert worst(run_onnx(small.model, IDS), made.expected().logits(IDS)) < 1e-5


def test_offsets_beyond_32_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hole stands for the weights before; its digest is not what is tested, so the bundle is not proved again. Some
    offsets have a sign in 32 bits, the others do not fit there."""
    start = (1 << 32) - 4096
    monkeypatch.setattr("foldrank.bundle.bundle.sha256_of", lambda path: "0" * 64)
    dense = dense_of(tmp_path, [("model.onnx.data", start)])
    made = plan_for(dense)
    small = apply(dense, made.plan(), tmp_path / "small")
    assert small.manifest.files["model.onnx.data"].bytes < 1 << 20
    assert worst(run_onnx(small.model, IDS), made.expected().logits(IDS)) < 1e-5


def test_a_weight_changed_in_a_block_that_only_leaves_publishes_nothing(tmp_path: Path) -> None:
    blocks = [dict(block) for block in DECODER.blocks]
    blocks[1]["down"] = blocks[1]["down"] + np.float32(1e-3)
    other = type(DECODER)(DECODER.shape, blocks, DECODER.head, DECODER.embedding, DECODER.norm, DECODER.windows)
    dense = write_bundle(other, tmp_path / "dense")
    with pytest.raises(PlanMismatch, match=r"block\.01\.down.*other weights"):
        apply(dense, plan_for(dense).plan(), tmp_path / "small")
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def test_data_that_the_disk_did_not_take_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel reports it to the first fsync alone, which here is not the last."""
    monkeypatch.setattr("foldrank.passes.hashed_file._FLUSH_BYTES", 1 << 12)
    dense = write_bundle(DECODER, tmp_path / "dense")
    failed = []

    def once(descriptor: int) -> None:
        if not failed:
            failed.append(descriptor)
            raise OSError(5, "Input/output error")

    monkeypatch.setattr("foldrank.passes.hashed_file.os.fsync", once)
    with pytest.raises(SourceError, match="Input/output error"):
        apply(dense, plan_for(dense).plan(), tmp_path / "small")
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def test_digest_is_the_files_however_it_was_cut(tmp_path: Path) -> None:
    with HashedFile(tmp_path / "x") as file:
        for size in (1, 63, 4096, 1 << 20, 7):
            file.pad(64)
            file.write(memoryview(os.urandom(size)))
        entry = file.entry()
    assert (entry.sha256, entry.bytes) == (sha256_file(tmp_path / "x"), (tmp_path / "x").stat().st_size)


def test_few_open_files_are_enough_for_any_number_of_weights(tmp_path: Path) -> None:
    dense = write_bundle(random_decoder(Shape(blocks=12, packed=False), seed=2), tmp_path / "dense")
    program = ("import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40)); "
               "from foldrank.verbs.apply import apply; apply(*sys.argv[1:])")
    made = PlanMaker(random_decoder(Shape(blocks=12, packed=False), seed=2), dense.manifest.source["config_sha256"])
    (tmp_path / "plan").mkdir()
    made.fold((1, 2), {1: 0.5, 2: 0.5}).plan().write(tmp_path / "plan")
    arguments = [str(tmp_path / name) for name in ("dense", "plan", "small")]
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 40
    subprocess.run([sys.executable, "-c", program, *arguments], check=True)


def test_a_file_cut_while_it_is_written_is_an_error_and_blocks_nobody(tmp_path: Path) -> None:
    with HashedFile(tmp_path / "x") as file:
        file.write(memoryview(bytes(1 << 20)))
        os.truncate(tmp_path / "x", 0)
        with pytest.raises(OSError, match="was cut"):
            file.entry()


def test_a_source_that_ends_before_its_tensors_is_named(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(bytes(10))
    with (tmp_path / "old").open("rb") as old, HashedFile(tmp_path / "x") as file:
        with pytest.raises(OSError, match="ends before its tensors do") as found:
            file.copy(old, 4, 7, "old")
        assert found.value.filename == "old"
