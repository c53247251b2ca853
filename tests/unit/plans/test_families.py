"""Every family of the table on a tiny random checkpoint: its own forward, the planner's simulation, the reference."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import Any

import numpy as np
import pytest
import torch
from nightly import NIGHTLY
from tiny_families import EXPERTS, TINY, save

from foldrank.benchmarks.planning import naive_similarity
from foldrank.edits.fold_blocks import FoldBlocks
from foldrank.edits.low_rank import LowRank
from foldrank.errors import SourceError
from foldrank.model.anatomy import checkpoint_anatomy
from foldrank.model.checkpoint import Checkpoint
from foldrank.plans.calibration import calibration_windows, usable
from foldrank.plans.compose import make_plan, parse_all, plan_of, run_all
from foldrank.plans.method import Result, Task
from foldrank.plans.methods import slm
from foldrank.plans.models.decoder import Decoder, load_decoder
from foldrank.plans.models.families import FAMILIES
from foldrank.plans.models.loading import load_model
from foldrank.plans.reference import reference_model
from foldrank.plans.reference.model import Model
from foldrank.plans.request import parse

INTERLEAVED = tuple(name for name, tiny in TINY.items() if FAMILIES[tiny.architecture].interleaved)
METHODS = {
    "joint": ["slm:keep=0.84,rule=mean,norms=top,windows=2,tokens=64", "dipsvd:keep=0.4,align=1,ratios=uniform"],
    "split": ["slm:keep=0.84,rule=rdsc,windows=2,tokens=64", "dipsvd:keep=0.4,align=1,ratios=uniform,packed=split"],
}
PAIRS = [pytest.param(family, packed, marks=[] if even == (packed == "split") else [NIGHTLY])
         for even, family in zip(cycle([True, False]), TINY, strict=False) for packed in METHODS]
"""Each family with one packing, in turn; at night with both."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkpoint]:
    """The tiny checkpoint of that name; norms and biases are random too."""
    known: dict[str, Checkpoint] = {}

    def make(family: str) -> Checkpoint:
        if family not in known:
            folder = save({**TINY, **EXPERTS}[family], tmp_path_factory.mktemp(family))
            known[family] = Checkpoint.open(folder)
        return known[family]

    return make


def close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-4) -> bool:
    return float((found - wanted).abs().max() / wanted.abs().max()) < tolerance


def test_the_check_of_these_tests_sees_a_fault_of_one_percent() -> None:
    wanted = torch.linspace(-1, 1, 50)
    assert close(wanted, wanted)
    assert not close(wanted + 0.01, wanted)


def test_every_family_of_the_table_is_tested_here() -> None:
    assert {tiny.architecture for tiny in TINY.values()} == set(FAMILIES)


@pytest.mark.parametrize("family", TINY)
def test_blocks_in_a_row_are_the_model(
    made: Callable[[str], Checkpoint], family: str, ids: np.ndarray
) -> None:
    decoder = load_decoder(made(family))
    with torch.no_grad():
        wanted = decoder.model(input_ids=torch.from_numpy(ids), use_cache=False)
        assert close(decoder.logits(decoder.forward(ids)), wanted.logits)
    assert type(decoder.model).__name__ == TINY[family].architecture
    first = decoder.blocks[0]
    same = first.with_weights({role: first.weight(role).clone() for role in first.roles})
    assert all(torch.equal(same.tensors[name], tensor) for name, tensor in first.tensors.items())


@pytest.mark.parametrize("family", TINY)
def test_headers_planner_and_reference_tell_one_anatomy(made: Callable[[str], Checkpoint], family: str) -> None:
    """Three readers with tables of their own."""
    checkpoint = made(family)
    found = checkpoint_anatomy(checkpoint)
    assert list(found.differences(Model.of(load_model(checkpoint, dtype=None), {}, torch.float32).anatomy())) == []
    assert found.tied == TINY[family].tied
    planned = load_decoder(checkpoint)
    assert [(block.number, {role: matrix.shape for role, matrix in block.matrices.items()}, block.unread)
            for block in found.blocks] == [
        (block.number, {role: tuple(block.weight(role).shape) for role in block.roles}, frozenset())
        for block in planned.blocks]
    assert found.head is not None
    assert found.head.shape == planned.head.shape


@pytest.mark.parametrize(("family", "packed"), PAIRS)
def test_the_reference_computes_what_the_planner_simulated_and_its_cache_works(
    made: Callable[[str], Checkpoint], family: str, packed: str, ids: np.ndarray
) -> None:
    checkpoint = made(family)
    if packed == "split" and family in INTERLEAVED:
        with pytest.raises(SourceError, match=r"query_key_value holds q, k, v head by head, so . cannot be replaced"):
            make_plan(checkpoint, METHODS[packed], calibration_tokens=1024)
        return
    dense = load_decoder(checkpoint)
    windows = usable(dense, calibration_windows(checkpoint, None, 1024, 0))
    runs = run_all(dense, parse_all(METHODS[packed]), windows.ids, 0)
    plan, simulated = plan_of(checkpoint, dense, windows, runs), runs[-1].result.decoder
    assert len(plan.of(FoldBlocks)) == 1
    paired = {role for pair in plan.of(LowRank) for role in pair.site.roles}
    assert paired == set(FAMILIES[TINY[family].architecture].roles)
    model: Any = reference_model(checkpoint, plan)
    tokens = torch.from_numpy(ids)
    with torch.no_grad():
        wanted = model(input_ids=tokens, use_cache=False).logits
        assert close(simulated.logits(simulated.forward(ids)), wanted)
        assert not close(load_decoder(checkpoint).model(input_ids=tokens).logits, wanted, 0.01)
        assert close(_streamed(model, tokens), wanted)


def _streamed(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Logits of ten tokens at once and the others one by one, with a cache of five blocks."""
    state = model(input_ids=tokens[:, :10], use_cache=True)
    parts = [state.logits]
    for position in range(10, tokens.shape[1]):
        token = tokens[:, position : position + 1]
        state = model(input_ids=token, past_key_values=state.past_key_values, use_cache=True)
        parts.append(state.logits)
    assert len(state.past_key_values.layers) == 5
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("family", TINY)
def test_keep_one_plans_nothing(made: Callable[[str], Checkpoint], family: str) -> None:
    assert make_plan(made(family), ["slm:keep=1", "dipsvd:keep=1"], calibration_tokens=256).edits == ()


@pytest.mark.parametrize(("family", "method", "folds"), [
    ("gemma2", "slm:blocks=3", [(1, 2, 3, 4)]), ("gemma3", "slm:threshold=-2,rule=mean", [(1, 2, 3, 4)]),
    ("smollm3", "slm:blocks=3", [(1, 2, 3, 4)]), ("gemma3", "laco:blocks=4,window=3", [(2, 3, 4)]),
    ("gemma2", "laco:threshold=-2,window=2", [(1, 2), (3, 4)]),
])
def test_blocks_merge_within_a_run_of_one_kind(
    made: Callable[[str], Checkpoint], family: str, method: str, folds: list[tuple[int, ...]], ids: np.ndarray
) -> None:
    """Block 0 and the last are of another kind than the four between."""
    decoder, ends = load_decoder(made(family)), "protect_first=0,protect_last=0"

    def planned(text: str) -> Result:
        request = parse(f"{text},{ends}")
        return request.method.run(Task(decoder, ids, 0, source=decoder), request.settings)

    assert [edit.blocks for edit in planned(method).edits] == folds
    with pytest.raises(ValueError, match=r"2 of 6 blocks cannot be reached .* one kind of block alone: 3 is the fewes"):
        planned("slm:blocks=2")


@pytest.mark.parametrize("family", ["gemma2", "gemma3"])
def test_windows_of_mixed_kinds_are_those_that_a_naive_search_finds(
    made: Callable[[str], Checkpoint], family: str, ids: np.ndarray
) -> None:
    """The oracle copies the model for each candidate, and asks the config which neighbours are alike."""
    decoder = load_decoder(made(family))
    naive = naive_similarity(decoder.model, ids, "top", "bottom")
    types = made(family).text_config["layer_types"]
    for threshold in (-2.0, 0.5, 0.8, 0.95):
        expected, high = [], 5
        while high > 0:
            low = high
            while low > 0 and types[low - 1] == types[high] and naive(tuple(expected), (low - 1, high)) > threshold:
                low -= 1
            expected += [(low, high)] if low < high else []
            high = low - 1
        settings = slm.Settings(threshold=threshold, protect_first=0, protect_last=0, windows=6, tokens=24)
        result = slm.run(Task(decoder, ids, 0, source=decoder), settings)
        assert sorted((fold.blocks[0], fold.blocks[-1]) for fold in result.edits) == sorted(expected)


@pytest.mark.parametrize(("family", "entry"), [
    ("gemma2", "layer_types"), ("gemma3", "layer_types"),
    ("smollm3", "no_rope_layers"),
])
def test_lists_of_the_config_by_block_follow(
    made: Callable[[str], Checkpoint], family: str, entry: str
) -> None:
    checkpoint = made(family)
    plan = make_plan(checkpoint, METHODS["joint"][:1], calibration_tokens=256)
    config: Any = reference_model(checkpoint, plan).config
    before = TINY[family].options[entry]
    assert getattr(config, entry) == [before[0], *[before[1]] * 3, before[5]]


def test_packed_weights_come_apart_in_storage_order(made: Callable[[str], Checkpoint]) -> None:
    """Oracle: the columns as the modules' own forwards cut them."""
    gpt2 = Decoder.of(load_decoder(made("gpt2")).model).blocks[2]
    for role, columns in zip("qkv", gpt2.module.attn.c_attn.weight.split(64, dim=1), strict=True):
        assert torch.equal(gpt2.weight(role), columns)
    phi3 = load_decoder(made("phi3")).blocks[2]
    for role, rows in zip("qkv", phi3.module.self_attn.qkv_proj.weight.split([64, 32, 32]), strict=True):
        assert torch.equal(phi3.weight(role), rows.T)
    for role, rows in zip(("gate", "up"), phi3.module.mlp.gate_up_proj.weight.chunk(2), strict=True):
        assert torch.equal(phi3.weight(role), rows.T)
