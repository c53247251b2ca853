"""llama.cpp as a peer: a GGUF file, decoded by the C functions that the wheel `xllamacpp` exports.

Of Python that wheel offers llama.cpp's server alone, where every token pays for a queue, a sampler and JSON. So its
library is loaded here for `llama_decode` itself (https://github.com/ggml-org/llama.cpp/blob/master/include/llama.h):
the shortest loop there is. Everything but threads, positions and rows is as llama.cpp has it by default: the file
mapped into memory, the cache in float16, prompts in pieces of 512 tokens.

Parameters go by value in structs whose ends change from version to version. Room is given for longer ones than any,
only the first fields of one are set, and what came of those is asked back.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foldrank.errors import ProviderUnavailable, SourceError
from foldrank.model import facts
from foldrank.model.gguf_header import read_header
from foldrank.model.places import gguf_place

PYTHON = "FOLDRANK_LLAMA_CPP_PYTHON"
"""Environment variable: the interpreter that has xllamacpp, where this one has not. Nothing else is asked of it."""

_WHERE = """
import importlib.metadata, importlib.util, json, pathlib
spec = importlib.util.find_spec("xllamacpp")
folder = pathlib.Path(spec.submodule_search_locations[0])
print(json.dumps([str(next(folder.glob("xllamacpp*.so"))), importlib.metadata.version("xllamacpp")]))
"""
_PIECE = 256
"""llama.cpp's caches hold multiples of so many positions."""

_ERROR = 4
"""Its level of log lines that tell of errors."""

_P, _U32, _I32 = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int32


class _ModelParams(ctypes.Structure):
    _fields_ = (("all", ctypes.c_uint64 * 64),)


class _ContextParams(ctypes.Structure):
    _fields_ = (("n_ctx", _U32), ("n_batch", _U32), ("n_ubatch", _U32), ("n_seq_max", _U32),
                ("rest", ctypes.c_uint64 * 62))


class _Batch(ctypes.Structure):
    _fields_ = (("n_tokens", _I32), ("token", _P), ("embd", _P), ("pos", _P), ("n_seq_id", _P), ("seq_id", _P),
                ("logits", _P))


_LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, _P)
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "llama_backend_init": (None, ()), "llama_log_set": (None, (_LOG, _P)),
    "llama_print_system_info": (ctypes.c_char_p, ()),
    "llama_model_default_params": (_ModelParams, ()),
    "llama_model_load_from_file": (_P, (ctypes.c_char_p, _ModelParams)),
    "llama_model_get_vocab": (_P, (_P,)), "llama_vocab_n_tokens": (_I32, (_P,)),
    "llama_context_default_params": (_ContextParams, ()), "llama_init_from_model": (_P, (_P, _ContextParams)),
    "llama_free": (None, (_P,)), "llama_set_n_threads": (None, (_P, _I32, _I32)),
    "llama_n_ctx": (_U32, (_P,)), "llama_n_batch": (_U32, (_P,)), "llama_n_seq_max": (_U32, (_P,)),
    "llama_get_memory": (_P, (_P,)), "llama_memory_clear": (None, (_P, ctypes.c_bool)),
    "llama_decode": (_I32, (_P, _Batch)), "llama_get_logits_ith": (_P, (_P, _I32)),
}
"""What is called of it: result, arguments."""


def library() -> tuple[Path, str]:
    """The shared library of xllamacpp and its version, of the interpreter that the environment names, else of this
    one. Raises ProviderUnavailable."""
    python = os.environ.get(PYTHON) or sys.executable
    if not os.access(python, os.X_OK):
        raise ProviderUnavailable(PYTHON, f"{python} is no program", "name the python that has xllamacpp")
    asked = subprocess.run([python, "-I", "-c", _WHERE], capture_output=True, text=True, check=False,
                           stdin=subprocess.DEVNULL)
    if asked.returncode:
        raise ProviderUnavailable(
            "llama.cpp", f"xllamacpp is not installed for {python}",
            f"python -m venv llama && llama/bin/pip install xllamacpp && export {PYTHON}=$PWD/llama/bin/python")
    path, version = json.loads(asked.stdout.splitlines()[-1])
    return Path(path), version


def gguf_file(given: Path | None, source: Mapping[str, str], config: Mapping[str, Any]) -> Path:
    """The file that llama.cpp is to run for a bundle of this `source` and config.json: the one given, else the one that
    its checkpoint was read from. Raises SourceError where there is none, or it is not of this model."""
    file = given or gguf_place(source)
    if file is None:
        raise SourceError("--against llama.cpp", "which GGUF file is it to run? The bundle's checkpoint was not read "
                          "from one that is still there", "--gguf FILE, of the same model")
    if not file.is_file():
        raise SourceError(file, "is no file", "--gguf FILE, a GGUF file of the same model")
    header = read_header(file)
    family = header.values.get("general.architecture")
    theirs = {"blocks": header.number(f"{family}.block_count"), "width": header.number(f"{family}.embedding_length")}
    ours = {"blocks": facts.blocks(config), "width": facts.width(config)}
    if theirs != ours:
        said = ", ".join(f"{name} {theirs[name]} against {ours[name]}" for name in ours if theirs[name] != ours[name])
        raise SourceError(file, f"is not of the bundle's model ({said})", "--gguf FILE, of the same model")
    return file


class LlamaLoop:
    """A GGUF file in llama.cpp, in the two calls that are timed."""

    def __init__(self, path: Path, file: Path, threads: int) -> None:
        """`path`: the library. `capacity`: positions of a row, prompt and continuation together. `what`: words for what
        is run. Raises ProviderUnavailable (the library), SourceError (the file)."""
        self._threads, self.capacity, self.what = threads, _PIECE, file.name
        self._errors: list[str] = []
        self._log = _LOG(self._heard)
        self._call = _functions(path)
        self._call.llama_log_set(self._log, None)
        self._call.llama_backend_init()
        self._model = self._call.llama_model_load_from_file(
            os.fsencode(file), self._call.llama_model_default_params())
        if not self._model:
            raise SourceError(file, f"llama.cpp cannot load it: {self._reason()}", "give another GGUF file")
        self._vocabulary: int = self._call.llama_vocab_n_tokens(self._call.llama_model_get_vocab(self._model))
        self._context: Any = None
        self._made, self._seen = (0, 0), 0
        self._last = np.zeros(1, dtype=np.int32)

    @property
    def build(self) -> str:
        """The instructions and ways of computing that the library was built with and finds here."""
        told = self._call.llama_print_system_info().decode(errors="replace")
        return " ".join(word.split("=")[0].strip() for word in told.replace("CPU :", "").split("|") if "= 1" in word)

    def prepare(self, rows: int) -> None:
        """Make a cache of so many rows, or empty the one that is there."""
        positions = -(-self.capacity // _PIECE) * _PIECE
        if self._made != (rows, positions):
            self._make(rows, positions)
        self._call.llama_memory_clear(self._call.llama_get_memory(self._context), False)
        self._seen = 0

    def first(self, prompt_BT: NDArray[np.int64]) -> NDArray[np.int64]:
        """Read prompts of equal length, give each row's likeliest next token [B]."""
        if self._seen:
            self.prepare(len(prompt_BT))
        return self._step(prompt_BT.astype(np.int32))

    def next(self) -> NDArray[np.int64]:
        """Feed back the tokens given last, give the next ones [B]."""
        return self._step(self._last[:, None])

    def _make(self, rows: int, positions: int) -> None:
        if self._context:
            self._call.llama_free(self._context)
        params = self._call.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_seq_max = rows * positions, rows * positions, rows
        self._context = self._call.llama_init_from_model(self._model, params)
        if not self._context:
            raise SourceError("llama.cpp", f"makes no context: {self._reason()}", "give another GGUF file")
        asked = params.n_ctx, params.n_batch, params.n_seq_max
        got = tuple(getattr(self._call, f"llama_n_{what}")(self._context) for what in ("ctx", "batch", "seq_max"))
        if got != asked:
            what = f"its parameters lie elsewhere in this version: {asked} became {got}"
            raise ProviderUnavailable("llama.cpp", what, "install the xllamacpp that constraints.txt names")
        self._call.llama_set_n_threads(self._context, self._threads, self._threads)
        self._made = rows, positions

    def _step(self, ids_BT: NDArray[np.int32]) -> NDArray[np.int64]:
        rows, tokens = ids_BT.shape
        ids = np.ascontiguousarray(ids_BT)
        places = np.tile(np.arange(self._seen, self._seen + tokens, dtype=np.int32), rows)
        row_of = np.repeat(np.arange(rows, dtype=np.int32), tokens)
        ones = np.ones(rows * tokens, dtype=np.int32)
        addresses = (row_of.ctypes.data + 4 * np.arange(rows * tokens)).astype(np.uint64)
        wanted = np.zeros(rows * tokens, dtype=np.int8)
        wanted[tokens - 1 :: tokens] = 1
        failed = self._call.llama_decode(self._context, _Batch(
            ids.size, ids.ctypes.data, None, places.ctypes.data, ones.ctypes.data, addresses.ctypes.data,
            wanted.ctypes.data))
        if failed:
            raise SourceError("llama.cpp", f"llama_decode gave {failed}: {self._reason()}", "give another GGUF file")
        self._seen += tokens
        self._last = np.array([self._likeliest(int(place)) for place in np.flatnonzero(wanted)], dtype=np.int32)
        return self._last.astype(np.int64)

    def _likeliest(self, place: int) -> int:
        logits = ctypes.cast(self._call.llama_get_logits_ith(self._context, place),
                             ctypes.POINTER(ctypes.c_float * self._vocabulary)).contents
        return int(np.ctypeslib.as_array(logits).argmax())

    def _heard(self, level: int, text: bytes, _: object) -> None:
        if level == _ERROR:
            self._errors.append(text.decode(errors="replace").strip())

    def _reason(self) -> str:
        return " | ".join(self._errors)[:300] or "it does not say why"


def _functions(path: Path) -> Any:
    """The library, its functions told of their arguments. Raises ProviderUnavailable."""
    try:
        found = ctypes.CDLL(str(path))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(found, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        what = f"cannot be loaded for its C functions: {error}"
        raise ProviderUnavailable(path, what, "install the xllamacpp that constraints.txt names") from None
    return found


def open_loop(file: Path, threads: int) -> LlamaLoop:
    """The loop, a first token behind it, so that its threads are there. Raises ProviderUnavailable, SourceError."""
    path, version = library()
    loop = LlamaLoop(path, file, threads)
    loop.prepare(1)
    loop.first(np.ones((1, 2), dtype=np.int64))
    types = ", ".join(sorted({tensor.type for tensor in read_header(file).tensors.values()}))
    loop.what = f"{file.name} ({types}; {file.stat().st_size:,} bytes) in xllamacpp {version} ({loop.build})"
    return loop
