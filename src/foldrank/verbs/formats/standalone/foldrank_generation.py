"""Text from a bundle's folder with onnxruntime-genai. Copied into packages; needs numpy and onnxruntime-genai alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime_genai as og

SEEDS = 2**31


class Model:
    """A bundle, opened once. `front`: tokens that stand before every prompt, which the library's tokenizer leaves out
    of some. `device`: "cpu" or "cuda"."""

    def __init__(self, folder: str, *, front: Sequence[int] = (), device: str = "cpu") -> None:
        config = og.Config(folder)
        config.clear_providers()
        if device != "cpu":
            config.append_provider(device)
        self._model = og.Model(config)
        self._tokenizer, self._front = og.Tokenizer(self._model), [int(token) for token in front]
        self._ends = {int(token) for token in self._tokenizer.eos_token_ids}

    def encode(self, text: str) -> list[int]:
        """Tokens of a prompt."""
        ids = [int(token) for token in self._tokenizer.encode(text)]
        return ids if ids[: len(self._front)] == self._front else self._front + ids

    def write(
        self, ids: Sequence[int], *, max_tokens: int, temperature: float = 0.0, top_p: float = 1.0,
        top_k: int = 50, seed: int = 0,
    ) -> Iterator[tuple[int, str]]:
        """New tokens with the text that each made whole; temperature 0 takes the likeliest. Raises ValueError."""
        if not len(ids):
            raise ValueError("the prompt has no tokens")
        if max_tokens < 1 or temperature < 0 or not 0 < top_p <= 1 or top_k < 1:
            raise ValueError("max_tokens and top_k are 1 or more, temperature 0 or more, top_p in (0, 1]")
        options: dict[str, Any] = {"max_length": len(ids) + max_tokens, "do_sample": temperature > 0}
        if temperature > 0:
            options |= {"temperature": temperature, "top_p": top_p, "top_k": top_k, "random_seed": seed % SEEDS}
        parameters = og.GeneratorParams(self._model)
        parameters.set_search_options(**options)
        generator, stream = og.Generator(self._model, parameters), self._tokenizer.create_stream()
        generator.append_tokens(np.asarray(ids, np.int32))
        for _ in range(max_tokens):
            if generator.is_done():
                return
            generator.generate_next_token()
            token = int(generator.get_next_tokens()[0])
            text = stream.decode(token)
            yield token, "" if token in self._ends else text
