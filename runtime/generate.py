"""Text from a bundle: onnxruntime-genai's generator where it is installed, else ONNX Runtime step by step.

Knows bundles' folders and tokens. What turns text into tokens is the library's own, or handed in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from foldrank.errors import SourceError
from foldrank.runtime.decoding import OrtDecoder
from foldrank.runtime.genai import GenaiDecoder
from foldrank.runtime.providers import Provider, load_genai


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen. Temperature 0 is greedy, and then the rest has no say."""

    temperature: float = 0.0
    top_k: int = 50
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 1 or not 0 < self.top_p <= 1:
            raise ValueError(f"temperature from 0, top_k from 1, top_p in (0, 1], not {self}")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0


@dataclass(frozen=True)
class Generated:
    """New tokens and their text, without the prompt. `seconds` from the prompt to the last token, loading aside."""

    prompt_tokens: int
    tokens: list[int]
    text: str
    seconds: float
    engine: str


class Tokenizer(Protocol):
    """What is asked of a tokenizer by ONNX Runtime's way."""

    def encode(self, text: str) -> list[int]: ...
    def decode(self, tokens: list[int]) -> str: ...


Told = Callable[[str], None]


def with_genai(
    folder: Path, prompt: str, provider: Provider, *, tokens: int, sampling: Sampling, context: int,
    threads: int | None, told: Told,
) -> Generated:
    """At most `tokens` new tokens, fewer at end of text or context. Raises as GenaiDecoder.open, and SourceError."""
    library = load_genai()
    model = GenaiDecoder.open(folder, provider, capacity=context, threads=threads).model
    tokenizer = library.Tokenizer(model)
    ids = np.asarray(tokenizer.encode(prompt), dtype=np.int32)
    length = check_prompt(folder, len(ids), tokens, context)
    parameters = library.GeneratorParams(model)
    options: dict[str, Any] = {"max_length": length, "do_sample": not sampling.greedy}
    if not sampling.greedy:
        options |= {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p,
                    "random_seed": sampling.seed}
    parameters.set_search_options(**options)
    generator, stream = library.Generator(model, parameters), tokenizer.create_stream()
    started = time.perf_counter()
    generator.append_tokens(ids)
    new: list[int] = []
    while not generator.is_done():
        generator.generate_next_token()
        new.append(int(generator.get_next_tokens()[0]))
        told(stream.decode(new[-1]))
    return Generated(len(ids), new, tokenizer.decode(np.asarray(new, np.int32)), time.perf_counter() - started,
                     "onnxruntime-genai")


def with_onnxruntime(
    folder: Path, prompt: str, provider: Provider, tokenizer: Tokenizer, *, tokens: int, sampling: Sampling,
    context: int, ends: Collection[int], threads: int | None, told: Told,
) -> Generated:
    """The same with ONNX Runtime alone, a tokenizer that is handed in, and the tokens that end a text."""
    ids = tokenizer.encode(prompt)
    length = check_prompt(folder, len(ids), tokens, context)
    decoder = OrtDecoder.open(folder, provider, threads=threads)
    started = time.perf_counter()
    new: list[int] = []
    shown = ""
    for token in _stream(decoder, np.asarray([ids], np.int64), length - len(ids), sampling):
        new.append(token)
        text = tokenizer.decode(new)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):  # else half a character: wait for the rest
            told(text[len(shown):])
            shown = text
        if token in ends:
            break
    return Generated(len(ids), new, tokenizer.decode(new), time.perf_counter() - started, "onnxruntime")


def check_prompt(folder: Path, prompt: int, tokens: int, context: int) -> int:
    """Length of prompt and continuation, within the context. Raises SourceError."""
    if prompt < 1:
        raise SourceError(folder, "the prompt has no tokens", "give a prompt with text in it")
    if prompt >= context:
        raise SourceError(folder, f"the prompt has {prompt} tokens, the model looks at {context}", "shorten it")
    return min(prompt + tokens, context)


def choose(logits_V: NDArray[Any], sampling: Sampling, random: np.random.Generator) -> int:
    """One token: the likeliest, or drawn after temperature, top-k and top-p."""
    if sampling.greedy:
        return int(logits_V.argmax())
    order = np.argsort(-logits_V, kind="stable")[: sampling.top_k]
    scaled = (logits_V[order].astype(np.float64) - float(logits_V[order[0]])) / sampling.temperature
    shares = np.exp(scaled) / np.exp(scaled).sum()
    kept = int(np.searchsorted(np.cumsum(shares), sampling.top_p)) + 1
    return int(random.choice(order[:kept], p=shares[:kept] / shares[:kept].sum()))


def _stream(decoder: OrtDecoder, ids_BT: NDArray[np.int64], tokens: int, sampling: Sampling) -> Iterator[int]:
    random = np.random.default_rng(sampling.seed)
    logits_BTV = decoder.prefill(ids_BT)
    for left in range(tokens, 0, -1):
        token = choose(logits_BTV[0, -1], sampling, random)
        yield token
        if left > 1:
            logits_BTV = decoder.step(np.asarray([[token]], np.int64))
