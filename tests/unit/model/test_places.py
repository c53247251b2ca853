"""Where checkpoints lie is noted per user and machine, by digests."""

from pathlib import Path

import pytest

from foldrank.digests import sha256_file
from foldrank.model.places import gguf_place, place_of, remember, remember_gguf

SOURCE = {"name": "m", "config_sha256": "a" * 64, "weights_sha256": "b" * 64}


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("FOLDRANK_NO_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def test_a_checkpoint_is_found_by_both_digests_until_it_is_gone(checkpoint: Path) -> None:
    assert place_of(SOURCE) is None
    remember(SOURCE, checkpoint)
    assert place_of(SOURCE) == checkpoint
    assert place_of({**SOURCE, "weights_sha256": "c" * 64}) is None
    assert place_of({"config_sha256": "a" * 64}) is None
    (checkpoint / "config.json").unlink()
    assert place_of(SOURCE) is None


def test_nothing_is_noted_where_no_cache_is_wanted_or_can_be(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file in its place")
    remember(SOURCE, checkpoint)
    monkeypatch.setenv("FOLDRANK_NO_CACHE", "1")
    (tmp_path / "cache").unlink()
    remember(SOURCE, checkpoint)
    assert place_of(SOURCE) is None
    assert not (tmp_path / "cache").exists()


def test_a_gguf_file_is_found_until_it_is_another(checkpoint: Path) -> None:
    file = checkpoint / "model.gguf"
    file.write_bytes(b"GGUF")
    source = {**SOURCE, "gguf": "model.gguf", "gguf_sha256": sha256_file(file)}
    assert gguf_place(source) is None
    remember_gguf(source, file)
    assert gguf_place(source) == file
    assert gguf_place(SOURCE) is None
    file.write_bytes(b"GGUF of other weights")
    assert gguf_place(source) is None
