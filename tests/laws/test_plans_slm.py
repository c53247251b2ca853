"""Laws of METHODS for SLM, on random decoders; the oracle is the naive procedure with deep copies."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_families import llama, random_model

from foldrank.benchmarks.planning import naive_similarity
from foldrank.plans.depth.prefix import AT_ONCE, Bounding
from foldrank.plans.depth.windows import Bounds, Memo, Outcome, merge_windows, search_threshold
from foldrank.plans.method import Task
from foldrank.plans.methods.slm import Settings, coefficients, fold, prefix_cache, run
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.shelf import Figures, MemoryShelf
from foldrank.plans.simulate.fold_blocks import merge

RULES = ("top", "rdsc", "mean", "bottom")
IDS = np.random.default_rng(0).integers(0, 61, size=(4, 12))


def random_llama(blocks: int, seed: int, spread: float = 0.15) -> Any:
    tiny = llama(hidden_size=24, num_attention_heads=3, num_key_value_heads=1, head_dim=10, intermediate_size=36,
                 num_hidden_layers=blocks, vocab_size=61, max_position_embeddings=32, initializer_range=spread)
    return random_model(tiny, seed=seed)


def folded(model: Any, **options: Any) -> tuple[Any, Decoder]:
    decoder = Decoder.of(model)
    result = run(Task(decoder, IDS, 0, source=decoder), Settings(**options))
    return result, result.decoder


def decisions(outcome: Outcome) -> list[tuple[tuple[int, int], bool]]:
    return [(t.window, t.accepted) for t in outcome.trials]


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(RULES), st.sampled_from(["bottom", "top"]), st.integers(3, 6))
def test_prefix_cache_decides_as_the_naive_procedure(seed: int, rule: Any, norms: Any, blocks: int) -> None:
    model, options = random_llama(blocks, seed), Settings(blocks=1, rule=rule, norms=norms)
    cached = Memo(prefix_cache(Decoder.of(model), IDS, options).similarity)
    naive = Memo(naive_similarity(model, IDS, rule, norms))
    for threshold in (-1.0, 0.3, 0.6, 0.9):
        ours = merge_windows(cached, Bounds(0, blocks - 1), threshold=threshold)
        theirs = merge_windows(naive, Bounds(0, blocks - 1), threshold=threshold)
        assert decisions(ours) == decisions(theirs)
        assert [t.similarity for t in ours.trials] == pytest.approx([t.similarity for t in theirs.trials], abs=1e-5)


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 5))
def test_search_decides_as_the_naive_procedure_on_some_samples_at_a_time(seed: int, target: int) -> None:
    model, ids, run = random_llama(6, seed), np.resize(IDS, (3 * AT_ONCE - 1, 8)), []
    cache = prefix_cache(Decoder.of(model), ids, Settings(blocks=target))
    bounding = Bounding(cache, Figures(MemoryShelf(), "similarities"), lambda: run.append(1))
    naive = Memo(naive_similarity(model, ids, "top", "bottom"))
    ours, theirs = (search_threshold(s, Bounds(1, 4), blocks=6, target=target) for s in (bounding, naive))
    assert (ours.outcome is None) == (theirs.outcome is None)
    if ours.outcome is not None and theirs.outcome is not None:
        assert decisions(ours.outcome) == decisions(theirs.outcome)
    assert len(run) <= 3 * len(naive.known)


@pytest.mark.parametrize("rule", RULES)
def test_identical_blocks_merge_exactly(rule: Any) -> None:
    model = random_llama(4, 1)
    for layer in list(model.model.layers)[1:]:
        layer.load_state_dict(model.model.layers[0].state_dict())
    decoder = Decoder.of(model)
    merged = merge(decoder.blocks, fold((0, 2), Settings(blocks=2, rule=rule)))
    for name, tensor in merged.tensors.items():
        assert torch.equal(tensor, decoder.blocks[0].tensors[name])


@given(st.integers(0, 20), st.integers(2, 9))
def test_coefficients_add_up_to_one_and_rdsc_of_two_is_top(low: int, size: int) -> None:
    for rule in RULES:
        assert sum(coefficients(rule, low, low + size - 1).values()) == pytest.approx(1.0)  # type: ignore[arg-type]
    assert coefficients("rdsc", low, low + 1) == coefficients("top", low, low + 1)


@given(st.integers(0, 20), st.sampled_from(RULES))
def test_a_window_of_one_is_the_identity(block: int, rule: Any) -> None:
    assert coefficients(rule, block, block) == {block: 1.0}


def test_named_blocks_merge_with_none_and_windows_stop_at_them() -> None:
    result, decoder = folded(random_llama(9, 2), threshold=-1.0, protect="3+6-7")
    assert [e.blocks for e in result.edits] == [(1, 2), (4, 5)]
    assert [b.number for b in decoder.blocks] == [0, 1, 3, 4, 6, 7, 8]
    with pytest.raises(ValueError, match=r"6 of 9 blocks cannot be reached.*protect=3\+6-7: 7 is the fewest"):
        folded(random_llama(9, 2), blocks=6, protect="3+6-7")
    with pytest.raises(ValueError, match="protect=9: there is no block 9"):
        folded(random_llama(9, 2), blocks=6, protect="9")


def test_similarity_of_logits_is_that_of_what_the_model_puts_out() -> None:
    model = random_llama(4, 8)
    result, _ = folded(model, threshold=-1.0, similarity="logits")
    changed, tokens = copy.deepcopy(model), torch.from_numpy(IDS)
    layers = list(changed.model.layers)
    merged = copy.deepcopy(layers[2])  # rule top: the upper block with the norms of the lower
    for name in ("input_layernorm", "post_attention_layernorm"):
        getattr(merged, name).load_state_dict(getattr(layers[1], name).state_dict())
    changed.model.layers = torch.nn.ModuleList([layers[0], merged, layers[3]])
    one, other = (m(input_ids=tokens, use_cache=False).logits.double().flatten(1) for m in (model, changed))
    wanted = torch.nn.functional.cosine_similarity(one, other, dim=1).mean()
    assert result.diagnostics["slm_trace"][0]["similarity"] == pytest.approx(float(wanted), abs=1e-5)


@pytest.mark.parametrize("blocks", [4, 7])
def test_a_threshold_of_minus_one_merges_all_allowed_blocks_and_of_one_none(blocks: int) -> None:
    model = random_llama(blocks, 3)
    result, decoder = folded(model, threshold=-1.0)
    assert [e.blocks for e in result.edits] == [tuple(range(1, blocks - 1))]
    assert [b.number for b in decoder.blocks] == [0, 1, blocks - 1]
    assert result.kept == pytest.approx(3 / blocks)
    for threshold in (1.0, 1.5):
        result, decoder = folded(model, threshold=threshold)
        assert result.edits == ()
        assert len(decoder.blocks) == blocks


def test_windows_of_an_all_alike_model_are_committed_where_the_released_loop_forgets_them() -> None:
    model = random_llama(6, 4, spread=0.002)
    result, _ = folded(model, threshold=0.5, protect_first=0)
    assert [e.blocks for e in result.edits] == [(0, 1, 2, 3, 4)]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.floats(0.5, 1.0), st.integers(0, 2), st.integers(0, 2))
def test_keep_is_never_exceeded_and_protected_blocks_stay(seed: int, keep: float, first: int, last: int) -> None:
    options = {"keep": keep, "protect_first": first, "protect_last": last}
    if int(keep * 6 + 1e-9) < first + last + 1:
        with pytest.raises(ValueError, match="cannot be reached"):
            folded(random_llama(6, seed), **options)
        return
    result, decoder = folded(random_llama(6, seed), **options)
    assert len(decoder.blocks) <= int(keep * 6 + 1e-9)
    assert result.kept == pytest.approx(len(decoder.blocks) / 6)
    assert len(decoder.blocks) == 6 - sum(len(e.blocks) - 1 for e in result.edits)
    touched = [b for e in result.edits for b in e.blocks]
    assert len(touched) == len(set(touched))
    assert all(first <= b < 6 - last for b in touched)


def test_keep_one_edits_nothing_and_measures_nothing() -> None:
    result, decoder = folded(random_llama(4, 5), keep=1)
    assert result.edits == ()
    assert result.kept == 1.0
    assert result.diagnostics["slm_trace"] == []
    assert len(decoder.blocks) == 4


def test_out_of_reach_is_a_value_error_with_what_can_be_reached() -> None:
    with pytest.raises(ValueError, match=r"1 of 6 blocks cannot be reached.*3 is the fewest"):
        folded(random_llama(6, 6), blocks=1)


def test_kinds_that_alternate_are_refused_and_the_model_is_untouched() -> None:
    from foldrank.errors import SourceError

    model = random_llama(5, 7)
    before = copy.deepcopy(model.state_dict())
    model.config.layer_types = [*["full_attention", "sliding_attention"] * 2, "full_attention"]
    with pytest.raises(SourceError, match=r"block.02: is of another kind \(full_attention\) than block.01"):
        folded(model, keep=0.8)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_planning_leaves_the_model_untouched() -> None:
    model = random_llama(6, 8)
    before = copy.deepcopy(model.state_dict())
    folded(model, keep=0.6, rule="mean")
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
