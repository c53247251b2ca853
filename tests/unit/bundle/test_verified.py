"""A digest is remembered for one state of a file, and any change of the file shows."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from foldrank import verified


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """The files that were really hashed, in order."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FOLDRANK_NO_CACHE", raising=False)
    calls: list[Path] = []

    def sha256_file(path: Path) -> str:
        calls.append(path)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr(verified, "sha256_file", sha256_file)
    return calls


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big"
    path.write_bytes(os.urandom(2 << 20))
    return path


def settle() -> None:
    time.sleep(verified.SETTLED_NS / 1e9 + 0.05)


def test_a_settled_file_is_hashed_once(big: Path, hashed: list[Path]) -> None:
    settle()
    digests = {verified.sha256_of(big) for _ in range(3)}
    assert digests == {hashlib.sha256(big.read_bytes()).hexdigest()}
    assert hashed == [big]


def test_a_file_changed_a_moment_ago_is_hashed_again(big: Path, hashed: list[Path]) -> None:
    verified.sha256_of(big)
    verified.sha256_of(big)
    assert hashed == [big, big]


def test_a_changed_byte_shows_even_with_the_old_size_and_mtime(big: Path, hashed: list[Path]) -> None:
    settle()
    before, stat = verified.sha256_of(big), big.stat()
    data = bytearray(big.read_bytes())
    data[12345] ^= 1
    with big.open("r+b") as file:
        file.write(data)
    os.utime(big, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert verified.sha256_of(big) == hashlib.sha256(data).hexdigest() != before


def test_another_file_of_the_same_size_is_hashed(big: Path, hashed: list[Path], tmp_path: Path) -> None:
    settle()
    verified.sha256_of(big)
    other = tmp_path / "other"
    other.write_bytes(os.urandom(2 << 20))
    assert verified.sha256_of(other) == hashlib.sha256(other.read_bytes()).hexdigest()


def test_small_files_and_a_switched_off_cache_are_hashed_each_time(
    big: Path, hashed: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tmp_path / "small"
    small.write_text("x")
    monkeypatch.setenv("FOLDRANK_NO_CACHE", "1")
    settle()
    for path in (small, small, big, big):
        verified.sha256_of(path)
    assert hashed == [small, small, big, big]


def test_a_cache_that_cannot_be_written_changes_nothing(
    big: Path, hashed: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    settle()
    assert verified.sha256_of(big) == hashlib.sha256(big.read_bytes()).hexdigest()
