"""Perplexity, KL, agreement and prefix of two decoders whose every probability is known."""

import math
from itertools import pairwise

import numpy as np
import pytest

from foldrank.errors import ValidationFailed
from foldrank.runtime.proof.quality import Sums, common_prefix, greedy_prefix, measure

VOCABULARY = 5


class Table:
    """A decoder whose next-token logits depend on the current token alone: rows of [V, V]."""

    def __init__(self, logits_VV: np.ndarray) -> None:
        self.logits_VV = logits_VV.astype(np.float32)

    def prefill(self, input_ids_BT: np.ndarray, attention_mask_BT: np.ndarray | None = None) -> np.ndarray:
        return self.logits_VV[input_ids_BT]

    def generate(self, prompt_BT: np.ndarray, tokens: int) -> np.ndarray:
        row = [int(prompt_BT[0, -1])]
        for _ in range(tokens):
            row.append(int(self.logits_VV[row[-1]].argmax()))
        return np.asarray([row[1:]])


RANDOM = np.random.default_rng(0)
DENSE = Table(RANDOM.normal(size=(5, 5)) * 2)
SMALL = Table(DENSE.logits_VV + RANDOM.normal(size=(5, 5)))
IDS = RANDOM.integers(0, VOCABULARY, (6, 9))


def by_hand(logits_VV: np.ndarray) -> list[list[float]]:
    return [[math.exp(x) / math.fsum(map(math.exp, row)) for x in row] for row in logits_VV.astype(float).tolist()]


def test_figures_are_those_of_a_sum_by_hand() -> None:
    p, q = by_hand(DENSE.logits_VV), by_hand(SMALL.logits_VV)
    pairs = [(int(a), int(b)) for row in IDS for a, b in pairwise(row)]
    dense = math.exp(-math.fsum(math.log(p[a][b]) for a, b in pairs) / len(pairs))
    small = math.exp(-math.fsum(math.log(q[a][b]) for a, b in pairs) / len(pairs))
    kl = math.fsum(x * math.log(x / y) for a, _ in pairs for x, y in zip(p[a], q[a], strict=True)) / len(pairs)
    agreeing = sum(p[a].index(max(p[a])) == q[a].index(max(q[a])) for a, _ in pairs)
    found, _ = measure(DENSE, SMALL, IDS)
    wanted = {"tokens": 48, "dense_perplexity": dense, "perplexity": small, "perplexity_ratio": small / dense,
              "kl_nats": kl, "top1_agreement": agreeing / 48}
    for name, value in wanted.items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-9), name
        assert getattr(found, name) * 1.01 != pytest.approx(value, rel=1e-9), name


def test_a_decoder_against_itself_costs_nothing() -> None:
    found, _ = measure(DENSE, DENSE, IDS)
    assert (found.perplexity_ratio, found.kl_nats, found.top1_agreement) == (1.0, 0.0, 1.0)
    assert found.greedy_prefix_tokens == found.greedy_continued_tokens


def test_a_uniform_model_has_the_perplexity_of_its_vocabulary() -> None:
    uniform = Table(np.zeros((5, 5)))
    assert measure(uniform, uniform, IDS)[0].perplexity == pytest.approx(5.0, rel=1e-12)


@pytest.mark.parametrize(("first", "second", "length"), [
    ([1, 2, 3], [1, 2, 3], 3), ([1, 2, 3], [1, 9, 3], 1), ([1], [2], 0),
])
def test_common_prefix(first: list[int], second: list[int], length: int) -> None:
    assert common_prefix(np.asarray(first), np.asarray(second)) == length


def test_the_greedy_prefix_stops_where_the_two_part() -> None:
    cycle = Table(np.roll(np.eye(5), 1, axis=1))  # 0 1 2 3 4 0 1 ...
    parted = cycle.logits_VV.copy()
    parted[3] = np.eye(5)[2]  # after 3 comes 2
    found = greedy_prefix(cycle, Table(parted), np.asarray([[4, 0, 0, 0, 0, 0, 0, 0]]))
    assert found.prefixes == [3]  # from 0: 1 2 3, then 4 or 2
    assert [part[0].tolist() for part in (found.prompts, found.dense, found.small)] == [
        [4, 0, 0, 0], [1, 2, 3, 4], [1, 2, 3, 2]]


def test_a_model_that_gives_nan_fails() -> None:
    broken = Table(np.full((5, 5), np.nan))
    with pytest.raises(ValidationFailed, match="the compressed bundle: gives NaN"):
        measure(DENSE, broken, IDS)
    with pytest.raises(ValidationFailed):
        Sums().add(DENSE.prefill(IDS[0]), broken.prefill(IDS[0]), IDS[0])
