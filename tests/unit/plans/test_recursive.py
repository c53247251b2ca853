"""recursive: what blocks share and what stands beside it, against numpy in float64; tied at rank 0, exact at full."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from synthetic.strategies import law
from tiny_families import TINY, save

from foldrank.edits import on_edits
from foldrank.edits.add_low_rank import AddLowRank
from foldrank.edits.anatomy import Matrix
from foldrank.edits.base import Phase
from foldrank.edits.sizes import bytes_by_part, bytes_each, bytes_read
from foldrank.model.anatomy import checkpoint_anatomy
from foldrank.model.checkpoint import Checkpoint
from foldrank.plans.bits.once import told_once
from foldrank.plans.calibration import calibration_windows
from foldrank.plans.compose import parse_all, plan_of, run_all
from foldrank.plans.method import Result, Task
from foldrank.plans.methods.recursive import filled
from foldrank.plans.models.decoder import Decoder, load_decoder
from foldrank.plans.reference import reference_model
from foldrank.plans.request import parse
from foldrank.sites import Site

MakeModel = Callable[..., Any]
PATHS = {"q": "self_attn.q_proj", "o": "self_attn.o_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}


def planned(model: Any, ids: np.ndarray, text: str) -> Result:
    request, decoder = parse(text), Decoder.of(model)
    return request.method.run(Task(decoder, ids, 0, source=decoder), request.settings)


def seen(model: Any, ids: np.ndarray, number: int, role: str) -> tuple[np.ndarray, np.ndarray]:
    """Inputs [tokens, in] and W [in, out] of a linear, by a hook of transformers' own module."""
    module, found = model.model.layers[number].get_submodule(PATHS[role]), []
    handle = module.register_forward_pre_hook(lambda _m, given: found.append(given[0].flatten(0, 1).double().numpy()))
    with torch.no_grad():
        model(input_ids=torch.from_numpy(ids), use_cache=False)
    handle.remove()
    return np.concatenate(found), module.weight.detach().double().numpy().T


def lost(model: Any, ids: np.ndarray, result: Result, role: str) -> float:
    """What blocks give less of, in squares over tokens, each on the dense model's inputs."""
    total = 0.0
    for block in result.decoder.blocks:
        inputs, weight = seen(model, ids, block.number, role)
        total += float(np.square(inputs @ (weight - block.weight(role).double().numpy())).sum())
    return total


@pytest.mark.parametrize("role", ["q", "down"])
def test_what_a_group_shares_is_its_least_squares_weight(make_model: MakeModel, ids: np.ndarray, role: str) -> None:
    model = make_model(4)
    result = planned(model, ids, "recursive:group=2")
    for first in (0, 2):
        both = [seen(model, ids, number, role) for number in (first, first + 1)]
        outputs = np.concatenate([inputs @ weight for inputs, weight in both])
        inputs = np.concatenate([inputs for inputs, _ in both])
        best = np.linalg.lstsq(inputs, outputs, rcond=None)[0]
        found = result.decoder.block(first).weight(role).double().numpy()
        assert np.linalg.norm(found - best) < 1e-3 * np.linalg.norm(best)
        least = np.square(outputs - inputs @ best).sum()
        assert np.square(outputs - inputs @ found).sum() < least * (1 + 1e-5)
        assert np.square(outputs - inputs @ (0.99 * best)).sum() > least * (1 + 1e-5), "one percent is seen"


def test_at_rank_0_blocks_are_tied_but_for_their_norms(make_model: MakeModel, ids: np.ndarray) -> None:
    result = planned(make_model(5, architecture="qwen2"), ids, "recursive:group=2,rank=0")
    blocks = result.decoder.blocks
    assert [block.shared.get("up") for block in blocks] == [*["block.00.up"] * 2, *["block.02.up"] * 2, None]
    for name, tensor in blocks[1].tensors.items():
        assert (tensor is blocks[0].tensors[name]) == name.endswith("proj.weight"), name
    assert result.kept == pytest.approx(3 / 5)
    assert not [edit for edit in result.edits if isinstance(edit, AddLowRank)]


def test_at_full_rank_it_is_the_original(make_model: MakeModel, ids: np.ndarray) -> None:
    model = make_model(4)
    result = planned(model, ids, "recursive:group=4,rank=99")
    dense = Decoder.of(model)
    with torch.no_grad():
        expected, found = (d.logits(d.forward(ids)) for d in (dense, result.decoder))
    assert (expected - found).abs().max() < 1e-5 * expected.abs().max()
    assert {edit.rank for edit in result.edits if isinstance(edit, AddLowRank)} == {42}


@pytest.mark.parametrize("role", ["o", "up"])
def test_the_error_falls_with_rank_and_is_what_truncation_leaves(
    make_model: MakeModel, ids: np.ndarray, role: str
) -> None:
    model = make_model(3)
    tied = planned(model, ids, "recursive:group=3,rank=0")
    losses = [lost(model, ids, tied, role)]
    for rank in (2, 9, 25):
        result = planned(model, ids, f"recursive:group=3,rank={rank}")
        losses.append(lost(model, ids, result, role))
        if role == "o":  # a pair of its own
            left = 0.0
            for block in tied.decoder.blocks:
                inputs, weight = seen(model, ids, block.number, role)
                apart = inputs @ (weight - block.weight(role).double().numpy())
                left += float(np.square(np.linalg.svd(apart, compute_uv=False)[rank:]).sum())
            assert losses[-1] == pytest.approx(left, rel=1e-3)
    assert all(after < 0.95 * before for before, after in pairwise(losses))


@pytest.mark.parametrize("keep", [0.5, 0.8])
def test_keep_counts_the_numbers_stored(make_model: MakeModel, ids: np.ndarray, keep: float) -> None:
    model = make_model(6)
    result = planned(model, ids, f"recursive:group=3,keep={keep}")
    decoder = Decoder.of(model)
    pairs = sum(edit.rank * sum(edit.shape) for edit in result.edits if isinstance(edit, AddLowRank))
    stored = decoder.site_parameters // 3 + pairs
    assert result.kept == stored / decoder.site_parameters
    assert keep - 200 / decoder.site_parameters < result.kept <= keep
    assert sum(array.size for array in result.arrays.values()) == stored


def test_a_keep_below_what_is_shared_and_two_ways_to_say_it_are_refused(make_model: MakeModel, ids: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"recursive:keep=0\.4: groups of 2 store 0\.500 of the blocks' numbers"):
        planned(make_model(4), ids, "recursive:keep=0.4")
    with pytest.raises(ValueError, match="rank and keep: give one of them"):
        parse("recursive:rank=4,keep=0.8")
    with pytest.raises(ValueError, match="group"):
        parse("recursive:group=1")


def test_tied_blocks_may_be_stored_in_few_bits_afterwards_and_pairs_come_last() -> None:
    assert [request.last for request in parse_all(["recursive:rank=0", "quantize"])] == [Phase.SHARING, Phase.STORAGE]
    with pytest.raises(ValueError, match="store in few bits come before those that add pairs beside"):
        parse_all(["recursive:rank=8", "quantize"])
    with pytest.raises(ValueError, match="several of them replace weights"):
        parse_all(["svd:keep=0.8", "recursive"])


@law(20)
@given(st.lists(st.tuples(st.integers(1, 9), st.lists(st.integers(1, 50), min_size=1, max_size=6)), min_size=1,
                max_size=4), st.integers(0, 60))
def test_ranks_go_one_by_one_where_a_number_takes_most(curves: list[tuple[int, list[int]]], budget: int) -> None:
    """Against a naive loop that looks at every site's next rank each time, and passes over what it cannot afford."""
    gains = {Site(i, ("o",)): (each, np.array(sorted(taken, reverse=True), float))
             for i, (each, taken) in enumerate(curves)}
    left, wanted, closed = budget, dict.fromkeys(gains, 0), set[Site]()
    while open_ := [site for site in gains if site not in closed and wanted[site] < len(gains[site][1])]:
        best = min(open_, key=lambda site: (-gains[site][1][wanted[site]] / gains[site][0], site))
        if gains[best][0] > left:
            closed.add(best)
            continue
        left -= gains[best][0]
        wanted[best] += 1
    found = filled(gains, budget)
    assert found == {site: rank for site, rank in wanted.items() if rank}
    assert sum(gains[site][0] * rank for site, rank in found.items()) <= budget


@pytest.mark.parametrize("family", ["llama", "gptneox"])
def test_a_checkpoint_is_planned_and_proved_and_stores_each_group_once(family: str, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(save(TINY[family], tmp_path / family))
    decoder = load_decoder(checkpoint)
    windows = calibration_windows(checkpoint, None, 160, 0)
    ids = windows.ids
    runs = run_all(decoder, parse_all(["recursive:group=2,rank=3"]), ids, 0)
    plan = plan_of(checkpoint, decoder, windows, runs)
    result, anatomy = runs[0].result, checkpoint_anatomy(checkpoint)
    left = on_edits(plan.edits, anatomy)
    numbers = sum(array.size for array in plan.arrays.values())
    assert sum(bytes_by_part(left, 1).values()) == numbers == result.decoder.stored_parameters
    dense = sum(bytes_by_part(anatomy, 1).values())
    pairs = sum(edit.rank * sum(edit.shape) for edit in plan.edits if isinstance(edit, AddLowRank))
    assert numbers == dense / 2 + pairs
    assert sum(bytes_read(left, 1).values()) == dense + pairs
    reference: Any = reference_model(checkpoint, plan)
    with torch.no_grad():
        logits = reference(input_ids=torch.from_numpy(ids), use_cache=False).logits
        torch.testing.assert_close(result.decoder.logits(result.decoder.forward(ids)), logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("rounding", ["gptq", "nearest"])
def test_what_blocks_share_is_stored_once_in_few_bits_too(rounding: str, tmp_path: Path) -> None:
    """The planner, the reference and the plan agree on it."""
    checkpoint = Checkpoint.open(save(TINY["llama"], tmp_path / "llama"))
    decoder, windows = load_decoder(checkpoint), calibration_windows(checkpoint, None, 160, 0)
    asked = ["recursive:group=3", f"quantize:bits=4,rounding={rounding},head_bits=none,embedding_bits=none"]
    runs = run_all(decoder, parse_all(asked), windows.ids, 0)
    plan = told_once(plan_of(checkpoint, decoder, windows, runs))
    left, after = on_edits(plan.edits, checkpoint_anatomy(checkpoint)), runs[-1].result.decoder
    assert len(left.owners) == 4 * 7
    dense = sum(bytes_by_part(checkpoint_anatomy(checkpoint), 4).values())
    few = Matrix((1, 1), few_bits=left.block(5).matrices["q"].few_bits)
    assert sum(bytes_by_part(left, 4).values()) == pytest.approx(dense / 3 / 4 * bytes_each(few, 4))
    assert after.stored_parameters == decoder.site_parameters // 3
    assert len([name for name in plan.arrays if name.endswith(".numbers")]) == (14 if rounding == "gptq" else 0)
    reference: Any = reference_model(checkpoint, plan)
    with torch.no_grad():
        logits = reference(input_ids=torch.from_numpy(windows.ids), use_cache=False).logits
        torch.testing.assert_close(after.logits(after.forward(windows.ids)), logits, rtol=0, atol=1e-4)
        dense_logits = decoder.logits(decoder.forward(windows.ids))
    assert (dense_logits - logits).abs().max() > 1e-1
