"""Documents, and windows that hold nothing but the text's own tokens."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foldrank.errors import SourceError
from foldrank.plans.texts import Text, cut_windows, load_text, load_tokenizer, read_text, windows


class Letters:
    """A tokenizer of code points; end of text is 0."""

    eos_token_id: int | None = 0

    def __call__(self, text: list[str], *, add_special_tokens: bool, verbose: bool) -> Any:
        return {"input_ids": [[ord(c) for c in document] for document in text]}


def test_txt_is_one_document_and_jsonl_one_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    assert load_text(tmp_path / "a.txt", "calibration") == ["one\ntwo\n"]
    lines = "\n".join(json.dumps({"text": t}) for t in ("one", "zwei \u2028 drei")) + "\n"
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    assert load_text(tmp_path / "a.jsonl", "calibration") == ["one", "zwei \u2028 drei"]
    assert load_text(tmp_path / "a.jsonl.gz", "calibration") == ["one", "zwei \u2028 drei"]


def test_default_texts_are_installed_and_differ() -> None:
    one, other = read_text(None, "calibration"), read_text(None, "validation")
    assert len(one.documents) > 1
    assert not set(one.documents) & set(other.documents)
    assert len(one.sha256) == 64


@pytest.mark.parametrize(("name", "data", "says"), [
    ("a.txt", b" \n", "holds no text"),
    ("a.txt", b"\xff\xffa", "not UTF-8"),
    ("a.jsonl", b"{\"text\": \"a\"}\nnope\n", "a.jsonl:2: is not JSON"),
    ("a.jsonl", b"{\"body\": \"a\"}\n", "a.jsonl:1: has no string"),
    ("a.txt.gz", b"plain", "no whole gzip"),
    ("a.txt.gz", gzip.compress(b"text" * 100, mtime=0)[:-9], "no whole gzip"),
])
def test_refuses_files_that_hold_no_text(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match=says):
        load_text(tmp_path / name, "calibration")


def test_missing_file_is_a_source_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be read"):
        load_text(tmp_path / "none.txt", "calibration")


def test_windows_are_the_text_in_order_without_padding_or_overlap() -> None:
    documents = ["abcde", "fgh", "ijklmn"]
    cut = windows(documents, Letters(), 4, None, None)
    whole = "abcde\0fgh\0ijklmn"
    assert "".join(map(chr, cut.ravel())) == whole[: len(cut) * 4]
    assert cut.shape == (4, 4)


def test_drawn_windows_are_distinct_sorted_and_follow_the_seed() -> None:
    text = Text("t", "", ("".join(chr(i) for i in range(1, 401)),))
    draws = [cut_windows(text, Letters(), window=8, windows=10, seed=seed).ids for seed in (1, 1, 2)]
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    starts = draws[0][:, 0]
    assert (np.diff(starts) >= 8).all()
    first = cut_windows(text, Letters(), window=8, windows=3, seed=None).ids
    assert first[0, 0] == 1
    assert first[-1, -1] == 24


def test_short_text_says_how_many_tokens_there_are_and_are_needed() -> None:
    with pytest.raises(SourceError, match="has 5 tokens, one window needs 8"):
        windows(["abcde"], Letters(), 8, None, 0)


def test_a_real_tokenizer_adds_nothing(specs_5m: Path) -> None:
    tokenizer = load_tokenizer(specs_5m)
    cut = windows(["## Abstract\n\nThis proposal adds"], tokenizer, 4, None, None)
    assert "## Abstract".startswith(tokenizer.decode(cut[0])[:8])  # type: ignore[attr-defined]
    assert tokenizer.eos_token_id not in cut


def test_a_folder_without_tokenizer_is_a_source_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="tokenizer cannot be read"):
        load_tokenizer(tmp_path)
