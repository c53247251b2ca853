"""Pairs in the place of head and table of words: against numpy in float64, and against other pairs of the same rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tiny_families import TINY, random_model

from foldrank.edits.low_rank_table import LowRankTable
from foldrank.plans.compose import parse_all, run_all
from foldrank.plans.low_rank.tables import table_pair
from foldrank.plans.method import Result
from foldrank.plans.methods.quantize import tables
from foldrank.plans.models.block import Pair
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.request import parse

MakeModel = Callable[..., Any]
RNG = np.random.default_rng(5)
TABLE = RNG.standard_normal((12, 90)) @ np.diag(np.linspace(0.2, 3, 90))
INPUTS = RNG.standard_normal((400, 12)) @ RNG.standard_normal((12, 12)) + 0.7
WORDS = RNG.gamma(0.5, size=90) + 0.01


def error(pair: np.ndarray, gram: np.ndarray, words: np.ndarray) -> float:
    """tr(M E D E^T), E what the pair leaves of the table."""
    left = TABLE - pair
    return float(np.trace(gram @ (left * words) @ left.T))


def made(gram: np.ndarray, words: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    a, b, losses = table_pair(torch.from_numpy(TABLE).float(), *map(torch.from_numpy, (gram, words)), rank)
    return a.double().numpy(), b.double().numpy(), losses


@pytest.mark.parametrize("words", [np.ones(90), WORDS], ids=["alike", "likely"])
@pytest.mark.parametrize("rank", [1, 5, 11])
def test_no_pair_of_its_rank_leaves_less(words: np.ndarray, rank: int) -> None:
    """Eckart-Young, of what the table gives over the text: inputs, and columns by the roots of their weights."""
    gram = INPUTS.T @ INPUTS
    a, b, losses = made(gram, words, rank)
    found = error(a @ b, gram, words)
    singular = np.linalg.svd(INPUTS @ TABLE @ np.diag(np.sqrt(words)), compute_uv=False)
    assert found == pytest.approx((singular[rank:] ** 2).sum(), rel=1e-5)
    np.testing.assert_allclose(losses[:12], [(singular[r:] ** 2).sum() for r in range(12)], rtol=1e-6)
    for seed in range(3):
        moved = np.random.default_rng(seed).standard_normal(a.shape) * 0.01
        assert error((a + moved) @ b, gram, words) > found
    if words is WORDS:
        alike = made(gram, np.ones(90), rank)
        assert error(alike[0] @ alike[1], gram, words) > 1.001 * found


def test_words_alike_it_is_the_pair_of_the_outputs_covariance_and_its_rows_are_orthonormal() -> None:
    """AFM: y W's second moments [V, V], made whole here, and its first eigenvectors."""
    outputs = INPUTS @ TABLE
    _, vectors = np.linalg.eigh(outputs.T @ outputs)
    first = vectors[:, -4:]
    a, b, _ = made(INPUTS.T @ INPUTS, np.ones(90), 4)
    np.testing.assert_allclose(a @ b, TABLE @ first @ first.T, atol=1e-5)
    np.testing.assert_allclose(b @ b.T, np.eye(4), atol=1e-5)


@pytest.mark.parametrize("tokens", [400, 5])
def test_full_rank_is_the_table_also_where_the_text_moves_few_channels(tokens: int) -> None:
    seen = INPUTS[:tokens]
    a, b, _ = made(seen.T @ seen, WORDS, 12)
    np.testing.assert_allclose(a @ b, TABLE, atol=1e-4)


def planned(decoder: Decoder, ids: np.ndarray, method: str) -> Result:
    return run_all(decoder, parse_all([method]), ids, 0)[-1].result


def model(tied: bool) -> Any:
    return random_model(TINY["llama" if tied else "qwen2"])


def test_the_head_and_the_embedding_are_the_best_of_what_the_model_sees(make_model: MakeModel, ids: np.ndarray) -> None:
    own = make_model(3, architecture="qwen2")
    decoder = Decoder.of(own)
    result = planned(decoder, ids, "afm:keep=1,head_keep=0.5,embedding_keep=0.3,align=2")
    edits = {edit.of: edit for edit in result.edits if isinstance(edit, LowRankTable)}
    given: list[np.ndarray] = []
    handle = own.get_output_embeddings().register_forward_hook(
        lambda _m, read, out: given.extend(part.flatten(0, 1).double().numpy() for part in (read[0], out)))
    with torch.no_grad():
        own(input_ids=torch.from_numpy(ids), use_cache=False)
    handle.remove()
    inputs, logits = given
    likely = np.exp(logits - logits.max(1, keepdims=True))
    expected = (likely / likely.sum(1, keepdims=True)).mean(0)
    counts = np.bincount(ids.ravel(), minlength=logits.shape[1]) + 1.0
    ends = {"head": (inputs, own.get_output_embeddings().weight, expected),
              "embedding": (np.eye(inputs.shape[1]), own.get_input_embeddings().weight, counts)}
    for of, (rows, weight, words) in ends.items():
        table, (a, b) = weight.detach().double().numpy().T, (result.arrays[name] for name in edits[of].factors)
        assert edits[of].rank == int(table.size * (0.5 if of == "head" else 0.3) / sum(table.shape)) // 2 * 2
        left = rows @ (table - a.astype(np.float64) @ b) * np.sqrt(words)
        singular = np.linalg.svd(rows @ table * np.sqrt(words), compute_uv=False) ** 2
        assert (left**2).sum() == pytest.approx(singular[edits[of].rank:].sum(), rel=1e-4)
        assert result.predicted[f"afm.{of}_relative_loss"] == pytest.approx(
            singular[edits[of].rank:].sum() / singular.sum(), rel=1e-4)


def test_numbers_outside_the_blocks_are_counted_with_pairs(ids: np.ndarray) -> None:
    for tied, method, left in ((True, "tables_keep=0.5", 0), (True, "head_keep=0.5", 1), (False, "head_keep=0.5", 1)):
        decoder = Decoder.of(model(tied))
        result = planned(decoder, ids, f"afm:keep=1,align=1,{method}")
        (edit,) = (e for e in result.edits if isinstance(e, LowRankTable))
        whole = edit.shape[0] * edit.shape[1]
        before = decoder.other_parameters - whole * (1 if tied else 2)
        assert result.decoder.other_parameters - before == left * whole + edit.rank * sum(edit.shape)


@pytest.mark.parametrize(("tied", "settings", "said"), [
    (False, "tables_keep=0.5", "two tables"), (True, "embedding_keep=0.5", "the table stays for the head"),
    (True, "tables_keep=0.5,head_keep=0.5", "is one pair for head and embedding")])
def test_what_cannot_be_asked_for(
    ids: np.ndarray, tied: bool, settings: str, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        planned(Decoder.of(model(tied)), ids, f"afm:keep=1,{settings}")


@pytest.mark.parametrize("part", ["head", "embedding"])
def test_few_bits_refuse_a_pair_and_say_the_way_out(part: str) -> None:
    decoder = Decoder.of(model(tied=False))
    a, b = torch.zeros(64, 4), torch.zeros(4, 260)
    settings = parse("quantize:bits=4").settings
    assert len(tables(decoder, settings)) == 2
    paired = decoder.with_factored([part], Pair(a, b))
    with pytest.raises(ValueError, match=f"the {part} is a pair of rank 4, .*; give {part}_bits=none"):
        tables(paired, settings)
    (other,) = tables(paired, parse(f"quantize:bits=4,{part}_bits=none").settings)
    assert part not in other.touch.writes
