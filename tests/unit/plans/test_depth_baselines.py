"""Methods that drop or collapse blocks, against the published procedures done naively on copies of the model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from foldrank.benchmarks.planning import naive_similarity
from foldrank.plans.depth.windows import Bounds, Memo
from foldrank.plans.method import Result, Task
from foldrank.plans.methods.laco import fixed_windows
from foldrank.plans.methods.slm import Settings, prefix_cache
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.request import parse

MakeModel = Callable[..., Any]


def planned(model: Any, ids: np.ndarray, text: str) -> Result:
    request, decoder = parse(text), Decoder.of(model)
    return request.method.run(Task(decoder, ids, 0, source=decoder), request.settings)


def left(result: Result) -> list[int]:
    return [block.number for block in result.decoder.blocks]


def naive_loss(model: Any, ids: np.ndarray, leaving: Collection[int]) -> float:
    changed, tokens = copy.deepcopy(model), torch.from_numpy(ids)
    kept = [layer for number, layer in enumerate(changed.model.layers) if number not in leaving]
    changed.model.layers = torch.nn.ModuleList(kept)
    changed.config.num_hidden_layers = len(kept)
    with torch.no_grad():
        return float(changed(input_ids=tokens, labels=tokens, use_cache=False).loss)


def test_shortgpt_drops_the_blocks_that_turn_their_input_least(make_model: MakeModel, ids: np.ndarray) -> None:
    model = make_model(6)
    with torch.no_grad():
        for block, factor in ((2, 0.01), (4, 0.1)):  # what these blocks add is small
            model.model.layers[block].self_attn.o_proj.weight *= factor
            model.model.layers[block].mlp.down_proj.weight *= factor
        states = model.model(input_ids=torch.from_numpy(ids), output_hidden_states=True).hidden_states[:6]
    result = planned(model, ids, "shortgpt:blocks=4")
    assert left(result) == [0, 1, 3, 5]
    for number in range(1, 5):  # hidden_states ends with the normed state, so the last block has no pair
        below, above = (states[n].double().flatten(0, 1).numpy() for n in (number, number + 1))
        cosine = (below * above).sum(1) / np.linalg.norm(below, axis=1) / np.linalg.norm(above, axis=1)
        assert result.diagnostics["block_scores"][str(number)] == pytest.approx(1 - cosine.mean(), abs=1e-5)


def test_shortened_drops_at_once_what_each_alone_costs_least(make_model: MakeModel, ids: np.ndarray) -> None:
    model = make_model(5)
    losses = {n: naive_loss(model, ids, {n}) for n in range(1, 5)}
    result = planned(model, ids, "shortened:blocks=3")
    assert left(result) == sorted({0, *sorted(losses, key=lambda n: losses[n])[2:]})
    for number, loss in losses.items():
        assert result.diagnostics["block_scores"][str(number)] == pytest.approx(loss, abs=1e-5)


@pytest.mark.parametrize("seed", [0, 5])
def test_sleb_drops_greedily_on_the_model_as_it_is_then(make_model: MakeModel, ids: np.ndarray, seed: int) -> None:
    model, leaving = make_model(5, seed=seed), set[int]()
    for _ in range(3):
        losses = {n: naive_loss(model, ids, {*leaving, n}) for n in range(1, 5) if n not in leaving}
        leaving.add(min(losses, key=lambda n: losses[n]))
    assert left(planned(model, ids, "sleb:keep=0.4")) == [n for n in range(5) if n not in leaving]


@pytest.mark.parametrize(("count", "stay", "expected"), [
    (6, 4, [0, 2, 3, 5]), (6, 2, [0, 5]), (5, 5, [0, 1, 2, 3, 4]), (5, 1, [0]),
])
def test_unified_skip_keeps_even_distances(
    make_model: MakeModel, ids: np.ndarray, count: int, stay: int, expected: list[int]
) -> None:
    assert left(planned(make_model(count), ids, f"unified_skip:blocks={stay}")) == expected


def test_what_leaves_leaves_the_others_untouched(make_model: MakeModel, ids: np.ndarray) -> None:
    model = make_model(6, architecture="qwen2")
    result = planned(model, ids, "unified_skip:blocks=3")
    source = Decoder.of(model)
    for block in result.decoder.blocks:
        for name, tensor in block.tensors.items():
            assert torch.equal(tensor, source.blocks[block.number].tensors[name])
    assert result.kept == 0.5
    assert [edit.leaving for edit in result.edits] == [(1,), (3, 4)]  # type: ignore[union-attr]


def test_laco_decides_as_on_deep_copies_and_its_windows_are_all_of_one_size(
    make_model: MakeModel, ids: np.ndarray
) -> None:
    model, loop, bounds = make_model(9), partial(fixed_windows, window=3), Bounds(1, 7)
    cached = Memo(prefix_cache(Decoder.of(model), ids, Settings(blocks=1, rule="rdsc")).similarity)
    naive = Memo(naive_similarity(model, ids, "rdsc", "bottom"))
    for threshold in (-1.0, 0.1, 0.5):
        ours, theirs = (loop(s, bounds, threshold=threshold) for s in (cached, naive))
        assert ours.windows == theirs.windows
        assert [t.similarity for t in ours.trials] == pytest.approx([t.similarity for t in theirs.trials], abs=1e-5)
        assert all(high - low == 2 for low, high in ours.windows)
    assert loop(cached, bounds, threshold=-1.0).windows == ((5, 7), (2, 4))
    result = planned(model, ids, "laco:keep=0.8,window=3")
    assert len(result.decoder.blocks) == 7
    assert set(result.edits[0].coefficients.values()) == {-1.0, 1.0}  # type: ignore[union-attr]


@pytest.mark.parametrize(("text", "says"), [
    ("sleb:keep=0.5,blocks=3", "exactly one"), ("shortgpt", "exactly one"), ("sleb:keep=0.1", "leaves none"),
    ("laco:blocks=1", "laco: 1 of 5 blocks cannot be reached"),
    ("laco:keep=0.7,window=9", "laco: no threshold leaves 3"),
])
def test_what_cannot_be_is_refused(make_model: MakeModel, ids: np.ndarray, text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        planned(make_model(5), ids, text)
