"""Text: documents from a file, and the token windows cut from them. Knows nothing of models; needs no torch.

Windows never overlap and never hold padding: documents are joined by one end-of-text token, the remainder is left.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from foldrank.errors import SourceError
from foldrank.pointers import refuse_pointer

DEFAULTS = ("calibration", "validation")
"""The texts that are installed with foldrank, as `foldrank.texts/NAME.jsonl`."""


class Tokenizer(Protocol):
    """What is asked of a tokenizer; every transformers tokenizer has it."""

    eos_token_id: int | None

    def __call__(self, text: list[str], *, add_special_tokens: bool, verbose: bool) -> Any: ...


@dataclass(frozen=True)
class Text:
    """Documents, with the name and the sha256 of the bytes they were read from."""

    name: str
    sha256: str
    documents: tuple[str, ...]


@dataclass(frozen=True)
class Windows:
    """Token ids [N, T], int64: N windows of T tokens, in the order in which they stand in the text."""

    text: Text
    ids: np.ndarray[Any, np.dtype[np.int64]]
    seed: int


def load_text(path: Path | None, default: str) -> list[str]:
    """Documents of a .txt or .jsonl file (also .gz), or of the installed default text. Raises SourceError."""
    return list(read_text(path, default).documents)


def read_text(path: Path | None, default: str) -> Text:
    """As `load_text`, with name and digest. A .txt file is one document; a .jsonl line holds one under "text"."""
    if path is None:
        name = f"{default}.jsonl"
        data = (resources.files("foldrank.texts") / name).read_bytes()
        where = f"foldrank.texts/{name}"
    else:
        where = name = Path(path).name
        refuse_pointer(Path(path))
        data = _bytes(Path(path))
    digest = hashlib.sha256(data).hexdigest()
    text = _decode(where, _inflate(where, data) if name.endswith(".gz") else data)
    name = name.removesuffix(".gz")
    documents = _jsonl(where, text) if name.endswith((".jsonl", ".json")) else [text]
    kept = tuple(d for d in documents if d.strip())
    if not kept:
        raise SourceError(where, "holds no text", "give a file with text in it")
    return Text(where, digest, kept)


def cut_windows(
    text: Text, tokenizer: Tokenizer, *, window: int, windows: int | None, seed: int | None
) -> Windows:
    """Cut the text into windows of `window` tokens; draw `windows` of them without replacement, or keep all (None).

    `seed` None takes them from the start of the text. Fewer than asked where the text is short, but at least one:
    else raises SourceError with the tokens there are and are needed.
    """
    if window < 2:
        raise ValueError(f"a window needs two tokens or more, not {window}")
    tokens = _tokens(text.documents, tokenizer)
    count = len(tokens) // window
    if count == 0:
        raise SourceError(
            text.name, f"has {len(tokens)} tokens, one window needs {window}", "give a longer text or a shorter window"
        )
    cut = tokens[: count * window].reshape(count, window)
    if windows is not None and windows < count:
        chosen = np.arange(windows) if seed is None else np.sort(
            np.random.default_rng(seed).choice(count, size=windows, replace=False)
        )
        cut = cut[chosen]
    return Windows(text, cut, 0 if seed is None else seed)


def windows(
    texts: Sequence[str], tokenizer: Tokenizer, window: int, tokens: int | None, seed: int | None
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Token ids [N, window] holding at most `tokens` tokens, at least one window; see `cut_windows`."""
    text = Text("text", "", tuple(texts))
    count = None if tokens is None else max(1, tokens // window)
    return cut_windows(text, tokenizer, window=window, windows=count, seed=seed).ids


def load_tokenizer(folder: Path) -> Tokenizer:
    """The checkpoint's tokenizer, from its folder alone. Raises SourceError."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        reason = str(error).strip().splitlines()
        raise SourceError(
            folder, f"its tokenizer cannot be read: {reason[0] if reason else type(error).__name__}",
            "save tokenizer.json and tokenizer_config.json beside the weights",
        ) from None


def _tokens(documents: Sequence[str], tokenizer: Tokenizer) -> np.ndarray[Any, np.dtype[np.int64]]:
    """One run of ids: no special tokens but one end-of-text between documents, where the tokenizer has one."""
    between = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    ids: list[int] = []
    for row in tokenizer(list(documents), add_special_tokens=False, verbose=False)["input_ids"]:
        if ids:
            ids.extend(between)
        ids.extend(row)
    return np.asarray(ids, dtype=np.int64)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceError(path, f"cannot be read: {error.strerror}", "give a text or .jsonl file") from None


def _inflate(where: str, data: bytes) -> bytes:
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(where, f"is no whole gzip file: {error}", "compress it again") from None


def _decode(where: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SourceError(where, f"is not UTF-8 (byte {error.start})", "convert it to UTF-8") from None


def _jsonl(where: str, text: str) -> list[str]:
    documents = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            raise SourceError(f"{where}:{number}", "is not JSON", "one object with a \"text\" key per line") from None
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise SourceError(f"{where}:{number}", "has no string \"text\"", "one object with a \"text\" key per line")
        documents.append(record["text"])
    return documents
