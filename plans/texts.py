"""Text: documents from a file, and the token windows cut from them. Knows nothing of models; needs no torch.

Windows never overlap and never hold padding: documents are joined by one end-of-text token, the remainder is left.
Each opens with the beginning-of-text token where the tokenizer puts one in front of a text (`encoding.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from foldrank.errors import SourceError
from foldrank.model.opening import PLAIN, Ids, Opening
from foldrank.model.readable import unmarked
from foldrank.model.token_rows import check_rows
from foldrank.plans.chats import Chat, rendered
from foldrank.plans.encoding import Tokenizer, encoded, opening_of, spelled
from foldrank.plans.formats import documents
from foldrank.plans.records import Document
from foldrank.plans.textfiles import characters, plain_name, read_bytes

DEFAULTS = ("calibration", "validation")
"""The texts that are installed with foldrank, as `foldrank.texts/NAME.jsonl`."""

Remedy = Callable[[int], str]
"""What to do about a text of so many tokens, which are too few."""


@dataclass(frozen=True)
class Text:
    """Documents, with the name and the sha256 of the bytes they were read from. `where`: the path, for messages."""

    name: str
    sha256: str
    documents: tuple[Document, ...]
    where: str = "text"


@dataclass(frozen=True)
class Windows:
    """Token ids [N, T], int64: N windows of T tokens, in the order in which they stand in the text. `opening`: what
    each starts with, one of its T."""

    text: Text
    ids: Ids
    seed: int
    opening: Opening = PLAIN


def load_text(path: Path | None, default: str) -> list[str]:
    """Documents of a file (`formats.documents`), or of the installed default text, chats left out. Raises SourceError.
    """
    return [document for document in read_text(path, default).documents if isinstance(document, str)]


def read_text(path: Path | None, default: str) -> Text:
    """The documents of a file with its name and digest, or the installed default text. Raises SourceError."""
    if path is None:
        where = name = f"foldrank.texts/{default}.jsonl"
        data = (resources.files("foldrank.texts") / f"{default}.jsonl").read_bytes()
    else:
        where, name = str(path), Path(path).name
        data = read_bytes(Path(path))
    found = documents(where, plain_name(where), characters(where, data))
    kept = tuple(document for document in found if isinstance(document, Chat) or document.strip())
    if not kept:
        raise SourceError(where, "holds no text", "give a file with text in it")
    return Text(name, hashlib.sha256(data).hexdigest(), kept, where)


def cut_windows(
    text: Text, tokenizer: Tokenizer, *, window: int, windows: int | None, seed: int | None, bos: str = "auto",
    rows: int | None = None, remedy: Remedy = lambda _: "give a longer text",
) -> Windows:
    """Cut the text into windows of `window` tokens; draw `windows` of them without replacement, or keep all (None).

    `bos` as `opening_of` takes it. `rows` of the model's embedding table: a token beyond raises SourceError. `seed`
    None takes windows from the start of the text. Fewer than asked where the text is short, but at least one: else
    raises SourceError with the tokens there are and are needed, and what `remedy` says to so many.
    """
    if window < 2:
        raise ValueError(f"a window needs two tokens or more, not {window}")
    opening = opening_of(tokenizer, bos)
    tokens = _tokens(text, tokenizer, opening)
    check_rows(opening.wrapped(tokens[None]), rows, text.where, lambda token: spelled(tokenizer, token))
    cut = opening.cut(tokens, window)
    if (count := len(cut)) == 0:
        found = len(tokens) + opening.front
        raise SourceError(text.where, f"has {found} tokens, one window needs {window}", remedy(found))
    if windows is not None and windows < count:
        chosen = np.arange(windows) if seed is None else np.sort(
            np.random.default_rng(seed).choice(count, size=windows, replace=False)
        )
        cut = cut[chosen]
    return Windows(text, cut, 0 if seed is None else seed, opening)


def windows(
    texts: Sequence[str], tokenizer: Tokenizer, window: int, tokens: int | None, seed: int | None
) -> Ids:
    """Token ids [N, window] holding at most `tokens` tokens, at least one window; see `cut_windows`."""
    text = Text("text", "", tuple(texts))
    count = None if tokens is None else max(1, tokens // window)
    return cut_windows(text, tokenizer, window=window, windows=count, seed=seed).ids


def load_tokenizer(folder: Path) -> Tokenizer:
    """The checkpoint's tokenizer, from its folder alone. Raises SourceError."""
    from transformers import AutoTokenizer

    try:
        with unmarked(folder) as place:
            return AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001 - tokenizers raises plain Exception for a stranger's file
        reason = str(error).strip().splitlines()
        raise SourceError(
            folder, f"its tokenizer cannot be read: {reason[0] if reason else type(error).__name__}",
            "save tokenizer.json and tokenizer_config.json beside the weights",
        ) from None


def _tokens(text: Text, tokenizer: Tokenizer, opening: Opening) -> Ids:
    """One run of ids: no special tokens but one end-of-text between documents, where the tokenizer has one.

    A chat template may write the beginning-of-text token itself: not again where windows open with it.
    """
    between = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    ids: list[int] = []
    written = [rendered(one, tokenizer) if isinstance(one, Chat) else one for one in text.documents]
    for row, document in zip(encoded(tokenizer, written), text.documents, strict=True):
        if ids:
            ids.extend(between)
        ids.extend(row[1:] if isinstance(document, Chat) and row[:1] == [opening.bos] else row)
    return np.asarray(ids, dtype=np.int64)
