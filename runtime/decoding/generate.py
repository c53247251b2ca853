"""Text from a bundle: what comes out, and onnxruntime-genai's way. `batch.py` is ONNX Runtime's.

Knows bundles' folders and tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from foldrank.runtime.decoding.genai import GenaiDecoder
from foldrank.runtime.decoding.sampling import Sampling
from foldrank.runtime.decoding.writing import Writer
from foldrank.runtime.providers.provider import Provider


@dataclass(frozen=True)
class Generated:
    """New tokens and their text, without the prompt. `seconds` from the prompt to the last token, loading aside."""

    prompt_tokens: int
    tokens: list[int]
    text: str
    seconds: float
    engine: str


class Tokenizer(Protocol):
    """What ONNX Runtime's way asks of one."""

    def encode(self, text: str) -> list[int]: ...
    def decode(self, tokens: list[int]) -> str: ...


Told = Callable[[str], None]


def with_genai(
    folder: Path, prompt: str, provider: Provider, *, tokens: int, sampling: Sampling, context: int,
    threads: int | None, told: Told | None = None, ids: Sequence[int] | None = None, rows: int | None = None,
) -> Generated:
    """At most `tokens` new tokens, fewer at end of text or context; `told` is handed each new piece of text.

    `ids`: the prompt's tokens, None: as the library's own tokenizer encodes it, which leaves out the beginning-of-text
    token of some. `rows` of the embedding table. Raises as GenaiDecoder.open, and SourceError.
    """
    decoder = GenaiDecoder.open(folder, provider, capacity=context, threads=threads)
    writer = Writer(decoder, context=context, rows=rows)
    given = writer.encode(prompt) if ids is None else ids
    writer.check(given)
    text = writer.begin(given, tokens=tokens, sampling=sampling)
    started = time.perf_counter()
    new: list[int] = []
    for piece in text:
        new.append(piece.token)
        if told is not None:
            told(piece.text)
    return Generated(len(given), new, writer.decode(new), time.perf_counter() - started, "onnxruntime-genai")
