"""Choosing a token: greedy, cut to the top, drawn in the shares that temperature gives; and what a prompt may be."""

from pathlib import Path

import numpy as np
import pytest

from foldrank.errors import SourceError
from foldrank.runtime.decoding.prompts import check_prompts
from foldrank.runtime.decoding.sampling import Sampling, choose

LOGITS = np.log(np.array([0.1, 0.5, 0.15, 0.25]))


def drawn(sampling: Sampling, times: int = 4000) -> np.ndarray:
    random = np.random.default_rng(0)
    return np.bincount([choose(LOGITS, sampling, random) for _ in range(times)], minlength=4) / times


def test_temperature_zero_is_greedy() -> None:
    assert drawn(Sampling(), 10).tolist() == [0, 1, 0, 0]


def test_tokens_are_drawn_in_their_shares() -> None:
    found = drawn(Sampling(temperature=1.0))  # standard error at most 0.008
    assert np.abs(found - np.exp(LOGITS)).max() < 0.03


def test_temperature_sharpens() -> None:
    wanted = np.exp(2 * LOGITS) / np.exp(2 * LOGITS).sum()
    assert np.abs(drawn(Sampling(temperature=0.5)) - wanted).max() < 0.03


@pytest.mark.parametrize(("sampling", "kept"), [
    (Sampling(1.0, top_k=1), {1}), (Sampling(1.0, top_k=2), {1, 3}), (Sampling(1.0, top_p=0.4), {1}),
    (Sampling(1.0, top_p=0.6), {1, 3}), (Sampling(1.0, top_p=0.95), {0, 1, 2, 3}),
])
def test_top_k_and_top_p_keep_the_likeliest(sampling: Sampling, kept: set[int]) -> None:
    assert set(np.flatnonzero(drawn(sampling, 500))) == kept


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1}])
def test_other_settings_do_not_exist(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="temperature"):
        Sampling(**wrong)


def test_a_prompt_fits_the_context_and_has_tokens() -> None:
    check_prompts(Path("b"), [1, 99], 100)
    for length, said in ((0, "the prompt has no tokens"), (100, "the prompt has 100 tokens, the model looks at 100"),
                         (101, "the prompt has 101 tokens")):
        with pytest.raises(SourceError, match=said):
            check_prompts(Path("b"), [length], 100)
