"""Text after an answer with onnxruntime-genai, as the card tells it: the logits are those of the whole sequence."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foldrank.reporting.snippets import CONTINUED
from foldrank.runtime.decoding.decoder import OrtDecoder
from foldrank.runtime.providers.provider import resolve


class _Tokens:
    """In the place of a tokenizer: a text's bytes."""

    def encode(self, text: str) -> list[int]:
        return list(text.encode())


@pytest.mark.parametrize("bundle", ["dense_5m", "traced_llama"])
@pytest.mark.parametrize("generated", [1, 4])
def test_the_cards_way_to_go_on_is_exact(bundle: str, generated: int, request: pytest.FixtureRequest) -> None:
    """Past and present share a buffer in the one bundle and not in the other."""
    import onnxruntime_genai as og

    folder: Path = request.getfixturevalue(bundle)
    model = og.Model(str(folder))
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=48, do_sample=False)
    generator = og.Generator(model, params)
    generator.append_tokens([5, 17, 30, 41, 99])
    for _ in range(generated):
        generator.generate_next_token()
    names: dict[str, Any] = {"generator": generator, "tokenizer": _Tokens()}
    exec(CONTINUED, names)
    generator.generate_next_token()
    sequence = [int(token) for token in generator.get_sequence(0)]
    assert sequence[5 + generated : -1] == list(b" It also")
    found = np.asarray(generator.get_output("logits"), np.float32).reshape(-1)
    whole = OrtDecoder.open(folder, resolve("cpu"), threads=1).prefill(np.array([sequence[:-1]]))[0, -1]
    assert np.abs(found[-len(whole):] - whole).max() <= 1e-5 * np.abs(whole).max()
