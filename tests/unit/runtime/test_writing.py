"""One loaded model, many texts: what each thread writes is what ONNX Runtime computes of its prompt alone."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from continued import COUNT, PROMPT, own_tokens

from foldrank.errors import SourceError
from foldrank.runtime.decoding.genai import GenaiDecoder
from foldrank.runtime.decoding.sampling import Sampling
from foldrank.runtime.decoding.writing import Writer
from foldrank.runtime.providers.provider import resolve

CONTEXT = 64


@pytest.fixture(scope="module")
def writer(dense_5m: Path) -> Writer:
    pytest.importorskip("onnxruntime_genai")
    return Writer(GenaiDecoder.open(dense_5m, resolve("cpu"), capacity=CONTEXT, threads=1), context=CONTEXT, rows=4096)


def written(writer: Writer, prompt: list[int], sampling: Sampling | None = None, tokens: int = COUNT) -> list[int]:
    sampling = sampling or Sampling()
    return [piece.token for piece in writer.begin(prompt, tokens=tokens, sampling=sampling)]


def test_texts_side_by_side_are_those_of_each_alone(writer: Writer, dense_5m: Path) -> None:
    prompts = [PROMPT, PROMPT[2:], PROMPT[::-1]]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda prompt: written(writer, prompt), prompts))
    assert found == [own_tokens(dense_5m, prompt) for prompt in prompts]


def test_a_seed_draws_the_same_tokens_and_another_others(writer: Writer) -> None:
    one, again, other = (written(writer, PROMPT, Sampling(1.5, 4096, 1.0, seed)) for seed in (3, 3, 4))
    assert one == again != other


def test_a_nucleus_holds_what_it_says(writer: Writer, dense_5m: Path) -> None:
    """The library forgets top_p where top_k is 0; with the vocabulary for top_k it is what OpenAI says it is."""
    from foldrank.runtime.decoding.decoder import OrtDecoder

    logits = OrtDecoder.open(dense_5m, resolve("cpu"), threads=1).prefill(np.array([PROMPT]))[0, -1].astype(float)
    shares = np.exp(logits - logits.max())
    order = np.argsort(-shares)
    top_p = float((shares[order[:2]].sum() + shares[order[2]] / 2) / shares.sum())  # half into the third token
    drawn = {written(writer, PROMPT, Sampling(1.0, 4096, top_p, seed), 1)[0] for seed in range(60)}
    assert drawn == set(order[:3].tolist())


def test_pieces_are_the_text(writer: Writer) -> None:
    pieces = list(writer.begin(PROMPT, tokens=COUNT, sampling=Sampling()))
    assert "".join(piece.text for piece in pieces) == writer.decode([piece.token for piece in pieces])


@pytest.mark.parametrize(("ids", "says"), [([], "has no tokens"), ([1] * CONTEXT, "looks at 64"), ([4096], "4096")])
def test_prompts_that_cannot_be_continued(ids: list[int], says: str, writer: Writer) -> None:
    with pytest.raises(SourceError, match=says):
        writer.check(ids)
