"""AFM against a principal component analysis of what transformers' linears give, in numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from proved import Planned, prove
from tiny_families import TINY, random_model

import foldrank
from foldrank.digests import WeightDigest
from foldrank.edits.add_bias import AddBias
from foldrank.edits.low_rank import LowRank
from foldrank.errors import SourceError
from foldrank.planfile.document import PlanDocument, Source
from foldrank.planfile.plan import Plan
from foldrank.plans.compose import parse_all, run_all
from foldrank.plans.method import Result
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.simulate import apply_edits
from foldrank.plans.training.stored import Stored
from foldrank.sites import Site

MakeModel = Callable[..., Any]
NAMES = {"q": "self_attn.q_proj", "o": "self_attn.o_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}


def planned(decoder: Decoder, ids: np.ndarray, method: str) -> Result:
    return run_all(decoder, parse_all([method]), ids, 0)[-1].result


def seen(model: Any, ids: np.ndarray, number: int, role: str) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and outputs [tokens, ...] of one linear, by a hook."""
    found: list[np.ndarray] = []
    handle = model.model.layers[number].get_submodule(NAMES[role]).register_forward_hook(
        lambda _m, given, out: found.extend(part.flatten(0, 1).double().numpy() for part in (given[0], out)))
    with torch.no_grad():
        model(input_ids=torch.from_numpy(ids), use_cache=False)
    handle.remove()
    return found[0], found[1]


def factors(result: Result, number: int, role: str) -> tuple[np.ndarray, np.ndarray, int]:
    """A B, the bias (zeros where there is none) and the rank of a site."""
    pair = next(e for e in result.edits if isinstance(e, LowRank) and str(e.site) == f"block.{number:02d}.{role}")
    a, b = (result.arrays[name].astype(np.float64) for name in pair.factors)
    bias = [result.arrays[e.bias] for e in result.edits if isinstance(e, AddBias) and e.site == pair.site]
    return a @ b, bias[0].astype(np.float64) if bias else np.zeros(b.shape[1]), pair.rank


@pytest.mark.parametrize("role", list(NAMES))
def test_no_pair_with_a_bias_comes_nearer_to_what_a_linear_gives(
    make_model: MakeModel, ids: np.ndarray, role: str
) -> None:
    model = make_model(3, architecture="qwen2")  # q has a bias of its own
    own = getattr(model.model.layers[1].get_submodule(NAMES[role]), "bias", None)
    kept = 0.0 if own is None else own.detach().double().numpy()
    decoder, (x, y) = Decoder.of(model), seen(model, ids, 1, role)
    made, bias, rank = factors(planned(decoder, ids, "afm:keep=0.5,align=1,ratios=uniform"), 1, role)
    mean = y.mean(axis=0)
    left, values, right = np.linalg.svd(y - mean, full_matrices=False)
    wanted = mean + (left[:, :rank] * values[:rank]) @ right[:rank]
    found = x @ made + kept + bias
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(y).max())
    np.testing.assert_allclose(found.mean(axis=0), mean, atol=1e-5 * np.abs(y).max())
    error = ((found - y) ** 2).sum()
    assert error == pytest.approx((values[rank:] ** 2).sum(), rel=1e-4)
    for other in ("svd_llm", "svd"):  # the same rank, each with the bias that is best for it
        pair, none, same = factors(planned(decoder, ids, f"{other}:keep=0.5,align=1"), 1, role)
        given = x @ pair + none
        assert same == rank or other == "svd", "ranks of uniform ratios"
        if same == rank:
            assert ((given - given.mean(axis=0) - (y - mean)) ** 2).sum() >= error * (1 - 1e-6)


@pytest.mark.parametrize("method", ["afm:keep=0.6,align=2", "afm:keep=0.6,align=2,packed=joint"])
def test_budget_holds_and_the_planner_computes_with_the_biases(
    make_model: MakeModel, ids: np.ndarray, method: str
) -> None:
    decoder = Decoder.of(make_model(3))
    result = planned(decoder, ids, method)
    assert 0.55 < result.kept <= 0.6
    assert {part for e in result.edits if isinstance(e, LowRank) for part in e.site.parts} == {
        e.site for e in result.edits if isinstance(e, AddBias)}
    again = apply_edits(result.edits, decoder, result.arrays)
    bare = apply_edits([e for e in result.edits if isinstance(e, LowRank)], decoder, result.arrays)
    with torch.no_grad():
        torch.testing.assert_close(again.forward(ids), result.decoder.forward(ids), rtol=1e-5, atol=1e-5)
        assert (bare.forward(ids) - result.decoder.forward(ids)).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2"])
def test_recovery_finds_biases_of_parts_of_packed_weights(family: str, ids: np.ndarray) -> None:
    """The model that is trained is the plan's; a bias that was trained is where it was."""
    decoder = Decoder.of(random_model(TINY[family], seed=0))
    result = planned(decoder, ids, "afm:keep=0.6,align=1,ratios=uniform")
    weights = {str(part): WeightDigest.of(decoder.block(part.block).weight(part.role).numpy())
               for edit in result.edits for part in edit.touch.reads if isinstance(part, Site)}
    source = Source("tiny", "0" * 64, "Tiny", len(decoder.blocks), weights)
    stored = Stored.of(decoder, Plan(PlanDocument(source, None, (), {}, {}, result.edits), result.arrays), dense=False)
    name = "block.01.v.bias"
    moved = {name: torch.from_numpy(result.arrays[name] + 1)}
    with torch.no_grad():
        for matrices, added in (({}, 0.0), (moved, 1.0)):
            found = decoder.with_blocks(stored.blocks(matrices))
            wanted = result.decoder.with_block(result.decoder.block(1).with_bias(
                "v", torch.full((len(result.arrays[name]),), added)))
            torch.testing.assert_close(found.forward(ids), wanted.forward(ids), rtol=1e-4, atol=1e-4)


def test_a_graph_without_biases_computes_them(tiny_models: Path, tmp_path: Path) -> None:
    folder = tiny_models / "llama"
    plan = foldrank.plan(folder / "checkpoint", methods=["afm:keep=0.7,align=1"], calibration_tokens=256)
    prove(folder / "optimum" / "model.onnx", Planned(folder / "checkpoint", plan), tmp_path)
    (tmp_path / "plan").mkdir()
    plan.write(tmp_path / "plan")
    assert Plan.read(tmp_path / "plan").edits == plan.edits


def test_roles_that_lie_head_by_head_are_refused(ids: np.ndarray) -> None:
    with pytest.raises(SourceError, match="head by head, and a bias stands behind one role"):
        planned(Decoder.of(random_model(TINY["gptneox"], seed=0)), ids, "afm:keep=0.6,packed=joint")
