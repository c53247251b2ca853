"""Text and random tokens in turn, every token before one comes twice, and a long window where that is cheap."""

import numpy as np
import pytest

from foldrank.tolerances import MIN_POSITIONS
from foldrank.verbs.proving_windows import each_once, full_context, proving

TEXT = np.full((100, 128), 7)


def test_half_is_text_and_the_rest_has_every_token_of_a_small_vocabulary() -> None:
    ids = proving(TEXT, 4096, 0)
    assert ids.size >= MIN_POSITIONS
    of_text = (ids == 7).all(axis=1)
    assert of_text[:6].tolist() == [True, False] * 3
    assert abs(int(of_text.sum()) - len(ids) / 2) < 1
    assert set(ids[~of_text].ravel().tolist()) == set(range(4096))


def test_a_short_text_is_made_up_for() -> None:
    ids = proving(TEXT[:1], 50, 0)
    assert ids.size >= MIN_POSITIONS
    assert (ids == 7).all(axis=1).sum() == 1
    assert ids.max() == 49


@pytest.mark.parametrize(("vocabulary", "shape"), [(10, (2, 5)), (10, (3, 7)), (1000, (2, 5))])
def test_none_comes_again_before_all_have(vocabulary: int, shape: tuple[int, int]) -> None:
    drawn = each_once(vocabulary, shape, 3).ravel()
    counts = np.bincount(drawn, minlength=vocabulary)
    assert drawn.size == shape[0] * shape[1]
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize(("context", "weights", "wanted"), [
    (1024, 5 * 10**6, 1024), (1024, 10**8, 1000), (512, 5 * 10**6, None), (None, 5, None), (4096, 10**12, None)])
def test_the_long_window_is_the_context_or_what_is_affordable(
    context: int | None, weights: int, wanted: int | None
) -> None:
    found = full_context(context, 4096, weights, 512, 0)
    assert (None if found is None else found.shape) == (None if wanted is None else (1, wanted))
