"""llama.cpp's loop hands over the tokens, places and rows that it should; what will not do is said."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from foldrank.benchmarks import llama_cpp
from foldrank.benchmarks.llama_cpp import PYTHON, LlamaLoop, gguf_file, library
from foldrank.errors import ProviderUnavailable, SourceError

VOCABULARY = 50


class Llama:
    """The C functions in Python. A row's next token is the sum of all it has seen, and of its number."""

    def __init__(self, *, fails: int = 0, cells: int = 0) -> None:
        self.rows: dict[int, dict[int, int]] = {}
        self.made: list[tuple[int, int]] = []
        self.params: Any = None
        self._logits: dict[int, NDArray[np.float32]] = {}
        self._fails, self._cells = fails, cells

    def llama_log_set(self, heard: Any, _: None) -> None:
        heard(2, b"of no weight\n", None)
        heard(4, b"tensor 'x' is odd\n", None)

    def llama_model_load_from_file(self, path: bytes, _: Any) -> int:
        return int(path != b"bad.gguf")

    def llama_context_default_params(self) -> Any:
        return llama_cpp._ContextParams(512, 2048, 512, 1)

    def llama_init_from_model(self, _: int, params: Any) -> int:
        self.params = params
        self.made.append((params.n_ctx, params.n_seq_max))
        return 1

    def llama_n_ctx(self, _: int) -> int:
        return self._cells or int(self.params.n_ctx)

    def llama_n_batch(self, _: int) -> int:
        return int(self.params.n_batch)

    def llama_n_seq_max(self, _: int) -> int:
        return int(self.params.n_seq_max)

    def llama_memory_clear(self, *_: Any) -> None:
        self.rows = {}

    def llama_decode(self, _: int, batch: Any) -> int:
        count = batch.n_tokens

        def numbers(address: int, kind: Any) -> Any:
            return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(kind)), (count,))

        assert list(numbers(batch.n_seq_id, ctypes.c_int32)) == [1] * count
        wanted = numbers(batch.logits, ctypes.c_int8)
        self._logits = {}
        for place in range(count):
            row = ctypes.cast(int(numbers(batch.seq_id, ctypes.c_uint64)[place]), ctypes.POINTER(ctypes.c_int32))[0]
            seen = self.rows.setdefault(row, {})
            position = int(numbers(batch.pos, ctypes.c_int32)[place])
            assert position == len(seen)  # one after the other, none twice
            seen[position] = int(numbers(batch.token, ctypes.c_int32)[place])
            if wanted[place]:
                self._logits[place] = np.eye(VOCABULARY, dtype=np.float32)[(sum(seen.values()) + row) % VOCABULARY]
        return self._fails

    def llama_get_logits_ith(self, _: int, place: int) -> int:
        return self._logits[place].ctypes.data

    def llama_vocab_n_tokens(self, _: Any) -> int:
        return VOCABULARY

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("llama_"):
            raise AttributeError(name)
        return lambda *_: 1


def loop(monkeypatch: pytest.MonkeyPatch, llama: Llama, file: str = "good.gguf") -> LlamaLoop:
    monkeypatch.setattr(llama_cpp, "_functions", lambda _: llama)
    return LlamaLoop(Path("lib.so"), Path(file), 1)


def test_rows_go_on_from_their_own_prompts_and_a_second_request_forgets_the_first(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    llama = Llama()
    decoding = loop(monkeypatch, llama)
    prompts = np.array([[3, 4, 5], [10, 0, 1]])
    for _ in range(2):
        decoding.prepare(2)
        found = [decoding.first(prompts), decoding.next(), decoding.next()]
        assert np.stack(found, axis=1).tolist() == [[12, 24, 48], [12, 24, 48]]
    assert decoding.first(prompts).tolist() == [12, 12]  # without prepare, which nobody must call
    assert llama.made == [(512, 2)]
    decoding.capacity = 300
    decoding.prepare(1)
    assert decoding.first(prompts[:1]).tolist() == [12]
    assert llama.made == [(512, 2), (512, 1)]


def test_what_llama_cpp_says_stands_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match=r"bad.gguf: llama.cpp cannot load it: tensor 'x' is odd; give another"):
        loop(monkeypatch, Llama(), "bad.gguf")
    decoding = loop(monkeypatch, Llama(fails=-1))
    decoding.prepare(1)
    with pytest.raises(SourceError, match="llama_decode gave -1: tensor 'x' is odd"):
        decoding.first(np.array([[1, 2]]))
    with pytest.raises(ProviderUnavailable, match=r"\(256, 256, 1\) became \(7, 256, 1\)"):
        loop(monkeypatch, Llama(cells=7)).prepare(1)


def test_a_library_without_the_functions_is_said(tmp_path: Path) -> None:
    other = next(Path(np.__file__).parent.glob("_core/_multiarray_umath*.so"), None)
    for path in (tmp_path / "none.so", *([other] if other else [])):
        with pytest.raises(ProviderUnavailable, match="cannot be loaded for its C functions"):
            llama_cpp._functions(path)


def test_the_library_is_that_of_the_interpreter_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    named = tmp_path / "python"
    named.write_text(f"#!/bin/sh\necho '{json.dumps(['/there/xllamacpp.abi3.so', '2026.1'])}'\n")
    named.chmod(0o755)
    monkeypatch.setenv(PYTHON, str(named))
    assert library() == (Path("/there/xllamacpp.abi3.so"), "2026.1")
    monkeypatch.setenv(PYTHON, str(tmp_path / "gone"))
    with pytest.raises(ProviderUnavailable, match=f"{PYTHON}: .*gone is no program"):
        library()
    named.write_text("#!/bin/sh\nexit 1\n")
    monkeypatch.setenv(PYTHON, str(named))
    with pytest.raises(ProviderUnavailable, match=f"xllamacpp is not installed for {named}; python -m venv llama"):
        library()


def test_the_file_is_the_one_given_or_the_one_read_and_of_the_same_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("gguf", reason="needs gguf: foldrank[gguf]")
    from tiny_gguf import TINY, write

    file, config = tmp_path / "tiny.gguf", {"num_hidden_layers": 2, "hidden_size": 64}
    write(TINY["llama"], file)
    assert gguf_file(file, {}, config) == file
    monkeypatch.setattr(llama_cpp, "gguf_place", {"a": file}.get)
    assert gguf_file(None, "a", config) == file  # type: ignore[arg-type]
    with pytest.raises(SourceError, match=r"which GGUF file is it to run\?.*; --gguf FILE"):
        gguf_file(None, "b", config)  # type: ignore[arg-type]
    with pytest.raises(SourceError, match="is no file"):
        gguf_file(tmp_path / "none.gguf", {}, config)
    with pytest.raises(SourceError, match=r"is not of the bundle's model \(blocks 2 against 3\)"):
        gguf_file(file, {}, {**config, "num_hidden_layers": 3})
