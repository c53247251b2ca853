"""Low-rank methods as published, each against numpy in float64 written from its paper."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from foldrank.edits.low_rank import LowRank
from foldrank.plans.low_rank import grams
from foldrank.plans.low_rank.decomposing import by_input, decompose
from foldrank.plans.low_rank.whitening import Metric
from foldrank.plans.method import Result, Task
from foldrank.plans.methods.svd_llm_v2 import ratios
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.request import parse

MakeModel = Callable[..., Any]
NAMES = {"q": "self_attn.q_proj", "o": "self_attn.o_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
METHODS = ("svd", "fwsvd", "asvd", "svd_llm", "svd_llm_v2", "basis_sharing", "welore")


def planned(model: Any, ids: np.ndarray, text: str) -> Result:
    request, decoder = parse(text), Decoder.of(model)
    return request.method.run(Task(decoder, ids, 0, source=decoder), request.settings)


@contextmanager
def inputs_of(model: Any, number: int, role: str) -> Iterator[list[np.ndarray]]:
    """Inputs [tokens, in] of one linear, taken by a hook of transformers' own module."""
    seen: list[np.ndarray] = []
    module = model.model.layers[number].get_submodule(NAMES[role])
    handle = module.register_forward_pre_hook(lambda _m, a: seen.append(a[0].flatten(0, 1).double().numpy()))
    try:
        yield seen
    finally:
        handle.remove()


def inputs(model: Any, ids: np.ndarray, number: int, role: str) -> np.ndarray:
    with inputs_of(model, number, role) as seen, torch.no_grad():
        model(input_ids=torch.from_numpy(ids), use_cache=False)
    return np.concatenate(seen)


def weight(model: Any, number: int, role: str) -> np.ndarray:
    return model.model.layers[number].get_submodule(NAMES[role]).weight.detach().double().numpy().T


def cut(scaled: np.ndarray, rank: int) -> np.ndarray:
    u, s, v = np.linalg.svd(scaled, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank]


def found(result: Result, number: int, role: str) -> tuple[np.ndarray, int]:
    """A B of a site, and its rank."""
    edit = next(e for e in result.edits if isinstance(e, LowRank) and str(e.site) == f"block.{number:02d}.{role}")
    a, b = (result.arrays[name].astype(np.float64) for name in edit.factors)
    return a @ b, edit.rank


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("keep", [0.4, 0.9])
def test_budget_holds_and_numbers_stored_are_what_kept_says(
    make_model: MakeModel, ids: np.ndarray, method: str, keep: float
) -> None:
    model = make_model(3, architecture="qwen2")
    result = planned(model, ids, f"{method}:keep={keep},align=2")
    before = Decoder.of(model).site_parameters
    edits = [e for e in result.edits if isinstance(e, LowRank)]
    dense = before - sum(e.shape[0] * e.shape[1] for e in edits)
    stored = sum(result.arrays[name].size for name in {n for e in edits for n in e.factors})
    assert (dense + stored) / before == pytest.approx(result.kept)
    assert keep - 0.06 < result.kept <= keep


@pytest.mark.parametrize("role", ["q", "o", "up", "down"])
def test_svd_is_the_truncated_svd(make_model: MakeModel, ids: np.ndarray, role: str) -> None:
    model = make_model(3)
    made, rank = found(planned(model, ids, "svd:keep=0.5,align=1"), 1, role)
    np.testing.assert_allclose(made, cut(weight(model, 1, role), rank), atol=1e-5)


@pytest.mark.parametrize("role", ["q", "o", "up", "down"])
def test_svd_llm_is_cholesky_whitening(make_model: MakeModel, ids: np.ndarray, role: str) -> None:
    model = make_model(3)
    made, rank = found(planned(model, ids, "svd_llm:keep=0.5,align=1"), 1, role)
    x = inputs(model, ids, 1, role)
    lower = np.linalg.cholesky(x.T @ x)
    np.testing.assert_allclose(made, np.linalg.solve(lower.T, cut(lower.T @ weight(model, 1, role), rank)), atol=1e-4)


@pytest.mark.parametrize("role", ["q", "o", "up", "down"])
def test_asvd_scales_channels_by_the_root_of_their_mean_size(make_model: MakeModel, ids: np.ndarray, role: str) -> None:
    model = make_model(3)
    made, rank = found(planned(model, ids, "asvd:keep=0.5,align=1"), 1, role)
    scale = np.abs(inputs(model, ids, 1, role)).mean(axis=0) ** 0.5
    np.testing.assert_allclose(
        made, cut(scale[:, None] * weight(model, 1, role), rank) / scale[:, None], atol=1e-4
    )
    plain, _ = found(planned(model, ids, "svd:keep=0.5,align=1"), 1, role)
    assert np.abs(made - plain).max() > 1e-3


@pytest.mark.parametrize("role", ["q", "o", "up", "down"])
def test_fwsvd_scales_rows_by_the_root_of_their_fisher(make_model: MakeModel, ids: np.ndarray, role: str) -> None:
    model = make_model(3)
    made, rank = found(planned(model, ids, "fwsvd:keep=0.5,align=1,windows=3"), 1, role)
    parameter = model.model.layers[1].get_submodule(NAMES[role]).weight.requires_grad_(True)
    fisher = np.zeros(tuple(parameter.shape))
    for row in torch.from_numpy(ids[:3]):
        loss = model(input_ids=row[None], labels=row[None], use_cache=False).loss
        fisher += torch.autograd.grad(loss, parameter)[0].double().numpy() ** 2
    scale = np.sqrt(fisher.sum(axis=0))
    np.testing.assert_allclose(
        made, cut(scale[:, None] * weight(model, 1, role), rank) / scale[:, None], atol=1e-4
    )


def test_svd_llm_v2_gives_up_by_the_inverse_logarithm_of_the_loss(make_model: MakeModel, ids: np.ndarray) -> None:
    model = make_model(3)
    decoder = Decoder.of(model)
    parts = decompose(Task(decoder, ids, 0, source=decoder), by_input(Metric), "split")
    chosen = {str(site): ratio for site, ratio in ratios(parts, 0.6, 1).items()}
    for role in NAMES:
        logs = []
        for number in range(3):
            x, w = inputs(model, ids, number, role), weight(model, number, role)
            rank = int(0.6 * w.size / sum(w.shape))
            logs.append(np.log(np.sqrt((np.linalg.svd(x @ w, compute_uv=False)[rank:] ** 2).sum())))
        assert min(logs) > 1
        given = 0.4 * 3 * (1 / np.array(logs)) / (1 / np.array(logs)).sum()
        np.testing.assert_allclose([chosen[f"block.{n:02d}.{role}"] for n in range(3)], 1 - given, rtol=1e-4)


def test_basis_sharing_truncates_neighbours_side_by_side_and_stores_their_basis_once(
    make_model: MakeModel, ids: np.ndarray
) -> None:
    model = make_model(5)
    result = planned(model, ids, "basis_sharing:keep=0.5,align=1,group=2")
    named = {str(e.site): e for e in result.edits if isinstance(e, LowRank)}
    assert named["block.02.q"].factors[0] == named["block.03.q"].factors[0] != named["block.00.q"].factors[0]
    assert named["block.02.down"].factors[0] != named["block.03.down"].factors[0]
    assert named["block.04.q"].factors[0] == "block.04.q.A"
    for role in ("q", "up"):
        grams = sum(x.T @ x for x in (inputs(model, ids, n, role) for n in (2, 3)))
        lower, beside = np.linalg.cholesky(grams), np.hstack([weight(model, n, role) for n in (2, 3)])
        made = np.hstack([found(result, n, role)[0] for n in (2, 3)])
        rank = named[f"block.02.{role}"].rank
        np.testing.assert_allclose(made, np.linalg.solve(lower.T, cut(lower.T @ beside, rank)), atol=1e-4)


def test_a_group_of_one_is_svd_llm(make_model: MakeModel, ids: np.ndarray) -> None:
    model = make_model(3)
    one, other = (planned(model, ids, f"{m}:keep=0.6,align=1") for m in ("basis_sharing", "svd_llm"))
    assert planned(model, ids, "basis_sharing:keep=0.6,align=1,group=1").edits == other.edits
    assert one.edits != other.edits


@pytest.mark.parametrize("keep", [0.45, 0.8])
def test_welore_has_one_threshold_over_all_matrices(make_model: MakeModel, ids: np.ndarray, keep: float) -> None:
    """Against numpy: thresholds tried one after the other, the lowest that fits; then the budget's rest is spent."""
    model = make_model(3)
    with torch.no_grad():
        for number, layer in enumerate(model.model.layers):
            layer.mlp.up_proj.weight.mul_(100.0)  # its size says nothing
            flat = np.linalg.svd(weight(model, number, "o"))
            layer.self_attn.o_proj.weight.copy_(torch.from_numpy((flat[0] @ np.eye(48, 42) @ flat[2]).T))
    result = planned(model, ids, f"welore:keep={keep},align=1")
    values = {(number, role): np.linalg.svd(block.weight(role).double().numpy(), compute_uv=False)
              for number, block in enumerate(Decoder.of(model).blocks) for role in block.roles}
    shapes = {key: Decoder.of(model).blocks[key[0]].weight(key[1]).shape for key in values}
    whole = sum(i * o for i, o in shapes.values())

    def ranks(threshold: float) -> dict[tuple[int, str], int]:
        return {key: int((held / held[0] >= threshold * (1 - 1e-9)).sum()) for key, held in values.items()}

    def numbers(found: dict[tuple[int, str], int]) -> int:
        return sum(min(found[key] * (i + o), i * o) for key, (i, o) in shapes.items())

    fits = [t for t in sorted(np.concatenate([v / v[0] for v in values.values()])) if numbers(ranks(t)) <= keep * whole]
    wanted = ranks(fits[0])
    made = {(e.site.block, e.site.role): e.rank for e in result.edits if isinstance(e, LowRank)}
    more = {key: numbers({**wanted, key: made.get(key, max(shapes[key]))}) - numbers(wanted) for key in shapes}
    assert min(more.values()) >= 0
    assert sum(more.values()) <= keep * whole - numbers(wanted)
    assert sum(extra > 0 for extra in more.values()) <= 2
    assert {key for key in shapes if key[1] == "o"} <= shapes.keys() - made.keys(), "a flat spectrum stays dense"


def test_welore_whitened_cuts_under_the_inputs_gram(make_model: MakeModel, ids: np.ndarray) -> None:
    model = make_model(3)
    made, rank = found(planned(model, ids, "welore:keep=0.4,align=1,whitening=plain"), 1, "q")
    x = inputs(model, ids, 1, "q")
    lower = np.linalg.cholesky(x.T @ x)
    np.testing.assert_allclose(made, np.linalg.solve(lower.T, cut(lower.T @ weight(model, 1, "q"), rank)), atol=1e-4)


@pytest.mark.parametrize("method", ["svd", "welore"])
def test_a_method_that_needs_no_text_runs_none(
    make_model: MakeModel, ids: np.ndarray, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    model = make_model(3)
    wanted = planned(model, ids, f"{method}:keep=0.5")
    monkeypatch.setattr(Decoder, "run", lambda *_: pytest.fail("a block was run"))
    assert planned(model, ids, f"{method}:keep=0.5").edits == wanted.edits


@pytest.mark.parametrize("method", ["fwsvd", "asvd"])
def test_no_gram_is_summed_for_a_metric_that_has_none(
    make_model: MakeModel, ids: np.ndarray, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setitem(grams._SUMMED, "grams", lambda _: pytest.fail("a Gram was summed"))
    planned(make_model(3), ids, f"{method}:keep=0.5")
    with pytest.raises(pytest.fail.Exception, match="a Gram was summed"):
        planned(make_model(3), ids, "svd_llm:keep=0.5")
