"""One loaded model that writes many texts, each by a generator of onnxruntime-genai: token by token, in any thread.

Knows tokens and how they are chosen. Knows nothing of who reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foldrank.model.token_rows import check_rows
from foldrank.runtime.decoding.genai import GenaiDecoder, cannot_run
from foldrank.runtime.decoding.prompts import check_prompts
from foldrank.runtime.decoding.sampling import Sampling
from foldrank.runtime.providers.provider import load_genai


@dataclass(frozen=True)
class Piece:
    """A new token and the text that it made whole: empty while half a character waits, and of a token that ends."""

    token: int
    text: str


class Writer:
    """A model and its tokenizer, opened once; `context` positions for prompt and text, `rows` of the embedding table
    (None: unknown). Its generators share the weights, not a cache, so threads may write side by side."""

    def __init__(self, decoder: GenaiDecoder, *, context: int, rows: int | None) -> None:
        """Raises SourceError where the library cannot read the tokenizer."""
        self.context, self.rows = context, rows
        self.folder, self._decoder, self._library = decoder.folder, decoder, load_genai()
        self.tokenizer = decoder.tokenizer()
        self.ends = frozenset(int(token) for token in self.tokenizer.eos_token_ids)

    def encode(self, text: str) -> list[int]:
        """As the library's own tokenizer encodes it, which leaves out the beginning-of-text token of some."""
        return [int(token) for token in self.tokenizer.encode(text)]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        return str(self.tokenizer.decode(np.asarray(tokens, np.int32)))

    def check(self, ids: Sequence[int]) -> None:
        """Raise SourceError where a prompt has no tokens, leaves no room for one more, or has a token that the model
        does not know."""
        check_rows(np.asarray(ids, np.int64), self.rows, "the prompt", lambda token: self.decode([token]))
        check_prompts(self.folder, [len(ids)], self.context)

    def begin(self, ids: Sequence[int], *, tokens: int, sampling: Sampling) -> Text:
        """A text of at most `tokens` new tokens, fewer at end of text or context; nothing is computed yet. Raises
        SourceError where the library cannot run the model, as does iterating the text."""
        parameters = self._library.GeneratorParams(self._decoder.model)
        options: dict[str, Any] = {"max_length": min(len(ids) + tokens, self.context),
                                   "do_sample": not sampling.greedy}
        if not sampling.greedy:
            options |= {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p,
                        "random_seed": sampling.seed}
        parameters.set_search_options(**options)
        try:
            generator = self._library.Generator(self._decoder.model, parameters)
        except RuntimeError as error:
            raise cannot_run(self.folder, error) from None
        return Text(generator, self.tokenizer.create_stream(), ids, self)


class Text:
    """What a generator writes after a prompt; iterated once."""

    def __init__(self, generator: Any, stream: Any, ids: Sequence[int], writer: Writer) -> None:
        self._generator, self._stream, self._ids, self._writer = generator, stream, ids, writer

    def __iter__(self) -> Iterator[Piece]:
        """Read the prompt, then write; whoever stops iterating stops the work after the token it got."""
        try:
            self._generator.append_tokens(np.asarray(self._ids, np.int32))
            while not self._generator.is_done():
                self._generator.generate_next_token()
                token = int(self._generator.get_next_tokens()[0])
                text = self._stream.decode(token)
                yield Piece(token, "" if token in self._writer.ends else text)
        except RuntimeError as error:
            raise cannot_run(self._writer.folder, error) from None
