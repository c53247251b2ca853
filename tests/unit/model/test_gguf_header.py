"""The header of a GGUF file, from bytes that the test writes: what is sound is read, what is not is refused at once."""

from __future__ import annotations

import contextlib
import struct
import time
from pathlib import Path

import pytest

from foldrank.errors import SourceError
from foldrank.model.checkpoint import Checkpoint
from foldrank.model.gguf import gguf_of
from foldrank.model.gguf_header import read_header
from foldrank.model.gguf_rules import reasons


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def entry(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def file(
    entries: list[bytes], tensors: list[bytes], data: int, *, version: int = 3, counts: tuple[int, int] | None = None
) -> bytes:
    """A file of `data` bytes of weights, aligned to 32."""
    head = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(tensors), len(entries))))
    head += b"".join(entries) + b"".join(tensors)
    return head + bytes(-len(head) % 32 + data)


NAME = entry("general.architecture", 8, text("llama"))
SOUND = file([
    NAME, entry("llama.block_count", 4, struct.pack("<I", 7)), entry("some.half", 6, struct.pack("<f", 0.5)),
    entry("some.numbers", 9, struct.pack("<IQ3i", 5, 3, 1, -2, 3)),
    entry("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 2) + text("a") + text("bc")),
], [tensor("a.weight", (64, 2), 2, 0), tensor("b", (3,), 0, 96)], 96 + 12)


def written(tmp_path: Path, data: bytes, name: str = "model.gguf") -> Path:
    (tmp_path / name).write_bytes(data)
    return tmp_path / name


def test_a_sound_header_is_read(tmp_path: Path) -> None:
    found = read_header(written(tmp_path, SOUND))
    assert found.values == {"general.architecture": "llama", "llama.block_count": 7, "some.half": 0.5,
                            "some.numbers": (1, -2, 3)}
    assert found.counts == {"tokenizer.ggml.tokens": 2}
    assert found.number("llama.block_count") == 7
    assert found.number("some.half") is None
    first, second = found.tensors.values()
    assert (first.name, first.type, first.shape, first.bytes) == ("a.weight", "Q4_0", (64, 2), 4 * 18)
    assert (second.type, second.start - first.start, second.bytes) == ("F32", 96, 12)


def test_every_shorter_file_is_called_truncated(tmp_path: Path) -> None:
    for length in range(len(SOUND)):
        with pytest.raises(SourceError, match=r"truncated|does not begin"):
            read_header(written(tmp_path, SOUND[:length]))


def test_a_changed_byte_never_leaves_our_errors(tmp_path: Path) -> None:
    for place in range(len(SOUND) - 96):
        for value in (0, 0x7F, 0xFF):
            path = written(tmp_path, SOUND[:place] + bytes([value]) + SOUND[place + 1 :])
            with contextlib.suppress(SourceError):
                refused = [*reasons(read_header(path))]
                assert refused


LOW = tensor("a", (64,), 0, 0)


@pytest.mark.parametrize(("data", "says"), [
    (b"GGML" + bytes(40), "does not begin as one"),
    (file([NAME], [], 0, version=1), "its version is 1"),
    (file([NAME], [], 0, version=3 << 24), "in the other order"),
    (file([], [], 0, counts=(1 << 60, 0)), "it claims 1152921504606846976 tensors"),
    (file([], [], 0, counts=(0, 1 << 40)), "it claims 1099511627776 metadata entries"),
    (file([entry("k", 8, struct.pack("<Q", 1 << 62))], [], 64), "a text of 4611686018427387904 bytes"),
    (file([entry("k", 9, struct.pack("<IQ", 4, 1 << 61))], [], 64), "array entries"),
    (file([entry("k", 9, struct.pack("<IQ", 8, 1 << 22))], [], 64), "it claims 4194304 texts"),
    (file([entry("k", 9, struct.pack("<IQ", 8, 2) + struct.pack("<Q", 1 << 63))], [], 64), "a size in it is too large"),
    (file([entry("k", 9, struct.pack("<IQ", 9, 1))], [], 64), "an array of type 9"),
    (file([entry("k", 99, b"")], [], 64), "a value of type 99"),
    (file([entry("k", 8, struct.pack("<Q", 2) + b"\xff\xfe")], [], 0), "not UTF-8"),
    (file([NAME, NAME], [], 0), "general.architecture stands in it twice"),
    (file([NAME], [LOW, LOW], 256), "a stands in it twice"),
    (file([NAME], [LOW, tensor("b", (64,), 0, 32)], 512), "b overlaps another tensor"),
    (file([NAME], [tensor("a", (64,), 0, 7)], 512), "does not fit its blocks"),
    (file([NAME], [tensor("a", (33,), 2, 0)], 512), "does not fit its blocks"),
    (file([NAME], [tensor("a", (64,), 77, 0)], 512), "a is of type 77"),
    (file([NAME], [tensor("a", (1 << 62, 1 << 62, 1 << 62), 0, 0)], 64), "the file at"),
    (file([NAME], [tensor("a", (64,), 0, 1 << 62)], 256), "the file at"),
    (file([NAME], [tensor("a", (0, 3), 0, 0)], 64), "a is empty"),
    (file([NAME], [tensor("a", (1,) * 9, 0, 0)], 64), "a has 9 axes"),
    (file([NAME, entry("general.alignment", 4, struct.pack("<I", 3))], [LOW], 512), "its alignment is 3"),
    (file([NAME, entry("split.count", 2, struct.pack("<H", 3))], [], 0), "is one part of a split GGUF file"),
])
def test_what_is_unsound_is_refused_at_once(data: bytes, says: str, tmp_path: Path) -> None:
    path, began = written(tmp_path, data), time.process_time()
    with pytest.raises(SourceError) as raised:
        Checkpoint.open(path)
    assert says in raised.value.what
    assert time.process_time() - began < 2


def test_parts_folders_of_several_and_other_architectures_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"is one part of a split GGUF file; join the parts"):
        Checkpoint.open(written(tmp_path, SOUND, "big-00001-of-00003.gguf"))
    written(tmp_path, SOUND, "b.gguf")
    with pytest.raises(SourceError, match=r"holds 2 GGUF files \(b.gguf, big-00001-of-00003.gguf\); give one of them"):
        Checkpoint.open(tmp_path)
    other = file([entry("general.architecture", 8, text("mamba"))], [], 0)
    with pytest.raises(SourceError, match=r"its architecture is 'mamba'; known are llama, qwen2"):
        Checkpoint.open(written(tmp_path, other, "c.gguf"))


def test_a_folder_with_safetensors_is_no_gguf_and_a_file_is_one_by_its_bytes(tmp_path: Path) -> None:
    file_ = written(tmp_path, SOUND)
    assert gguf_of(tmp_path) == file_
    written(tmp_path, b"", "model.safetensors")
    assert gguf_of(tmp_path) is None
    assert gguf_of(written(tmp_path, SOUND, "model.bin")) == tmp_path / "model.bin"
    assert gguf_of(tmp_path / "nothing") is None
