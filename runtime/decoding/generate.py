"""Text from a bundle: what a token is chosen by, what comes out, and onnxruntime-genai's generator.

Knows bundles' folders and tokens. `batch.py` is ONNX Runtime's way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from foldrank.errors import SourceError
from foldrank.model.token_rows import check_rows
from foldrank.runtime.decoding.genai import GenaiDecoder, cannot_run
from foldrank.runtime.providers.provider import Provider, load_genai


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
    library = load_genai()
    decoder = GenaiDecoder.open(folder, provider, capacity=context, threads=threads)
    model, tokenizer = decoder.model, decoder.tokenizer()
    given = np.asarray(tokenizer.encode(prompt) if ids is None else ids, dtype=np.int32)
    check_rows(given, rows, "the prompt", lambda token: str(tokenizer.decode(np.asarray([token], np.int32))))
    check_prompts(folder, [len(given)], context)
    parameters = library.GeneratorParams(model)
    options: dict[str, Any] = {"max_length": min(len(given) + tokens, context), "do_sample": not sampling.greedy}
    if not sampling.greedy:
        options |= {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p,
                    "random_seed": sampling.seed}
    parameters.set_search_options(**options)
    new: list[int] = []
    try:
        generator, stream = library.Generator(model, parameters), tokenizer.create_stream()
        started = time.perf_counter()
        generator.append_tokens(given)
        while not generator.is_done():
            generator.generate_next_token()
            new.append(int(generator.get_next_tokens()[0]))
            if told is not None:
                told(stream.decode(new[-1]))
    except RuntimeError as error:
        raise cannot_run(folder, error) from None
    return Generated(len(given), new, tokenizer.decode(np.asarray(new, np.int32)), time.perf_counter() - started,
                     "onnxruntime-genai")


def check_prompts(folder: Path, lengths: Sequence[int], context: int) -> None:
    """Every prompt has tokens and leaves room for one more. Raises SourceError naming all that do not, from 1."""
    reasons = [
        ("the prompt" if len(lengths) == 1 else f"prompt {number}")
        + (f" has {length} tokens, the model looks at {context}" if length else " has no tokens")
        for number, length in enumerate(lengths, start=1) if not 0 < length < context
    ]
    if reasons:
        raise SourceError(folder, " | ".join(reasons), "give a prompt with text, shorter than what the model sees")


def choose(logits_V: NDArray[Any], sampling: Sampling, random: np.random.Generator) -> int:
    """One token: the likeliest, or drawn after temperature, top-k and top-p."""
    if sampling.greedy:
        return int(logits_V.argmax())
    order = np.argsort(-logits_V, kind="stable")[: sampling.top_k]
    scaled = (logits_V[order].astype(np.float64) - float(logits_V[order[0]])) / sampling.temperature
    shares = np.exp(scaled) / np.exp(scaled).sum()
    kept = int(np.searchsorted(np.cumsum(shares), sampling.top_p)) + 1
    return int(random.choice(order[:kept], p=shares[:kept] / shares[:kept].sum()))
