"""DipSVD on whole decoders: budgets, composition with a fold, digests, and quality on the bundled model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from foldrank.digests import WeightDigest, combine
from foldrank.edits.fold_blocks import FoldBlocks
from foldrank.plans.low_rank.factoring import sites_of
from foldrank.plans.method import Result, Task
from foldrank.plans.methods.dipsvd import Settings, run
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.simulate import apply_edits
from foldrank.sites import ROLES, Site

MakeModel = Callable[..., Any]


def factored(decoder: Decoder, ids: np.ndarray, *folds: FoldBlocks, **options: Any) -> Result:
    source = decoder
    task = Task(apply_edits(folds, source, {}), ids, 0, source=source)
    return run(task, Settings(**options))


@pytest.mark.parametrize("packed", ["joint", "split"])
@pytest.mark.parametrize("ratios", ["uniform", "released", "formula", "spectrum"])
@pytest.mark.parametrize("whitening", ["plain", "gd", "dgd"])
def test_budget_holds_for_every_choice(
    make_model: MakeModel, ids: np.ndarray, packed: str, ratios: str, whitening: str
) -> None:
    decoder = Decoder.of(make_model(4, architecture="qwen2"))
    for keep in (0.3, 0.85):
        result = factored(decoder, ids, keep=keep, packed=packed, ratios=ratios, whitening=whitening, align=4)
        numbers = decoder.site_parameters
        for edit in result.edits:
            numbers -= edit.shape[0] * edit.shape[1] - edit.rank * sum(edit.shape)  # type: ignore[union-attr]
        assert numbers / decoder.site_parameters == pytest.approx(result.kept)
        assert keep - 0.05 < result.kept <= keep


@pytest.mark.parametrize("options", [
    {"ratios": "closed-form"}, {"ratios": "closed-form", "whitening": "dgd", "packed": "split"},
    {"inputs": "sequential", "feed_forward": 0.5}, {"refit": True, "ratios": "uniform"},
], ids=str)
def test_budget_holds_for_ratios_in_closed_form_and_for_fits(
    make_model: MakeModel, ids: np.ndarray, options: dict[str, Any]
) -> None:
    decoder = Decoder.of(make_model(4, architecture="qwen2"))
    for keep in (0.3, 0.85):
        result = factored(decoder, ids, keep=keep, align=4, **options)
        saved = sum(e.shape[0] * e.shape[1] - e.rank * sum(e.shape) for e in result.edits)  # type: ignore[union-attr]
        assert 1 - saved / decoder.site_parameters == pytest.approx(result.kept)
        assert keep - 0.05 < result.kept <= keep


def test_pairs_stand_for_the_weights_the_decoder_then_runs(make_model: MakeModel, ids: np.ndarray) -> None:
    decoder = Decoder.of(make_model(3, architecture="qwen2"))
    result = factored(decoder, ids, keep=0.6, align=1)
    assert result.edits
    for edit in result.edits:
        a, b = (result.arrays[name] for name in edit.factors)  # type: ignore[union-attr]
        block = result.decoder.blocks[edit.site.block]  # type: ignore[union-attr]
        w = np.concatenate([block.weight(role).numpy() for role in edit.site.roles], axis=1)  # type: ignore[union-attr]
        np.testing.assert_allclose(a @ b, w, atol=1e-5)
        assert (a.shape, b.shape) == ((edit.shape[0], edit.rank), (edit.rank, edit.shape[1]))  # type: ignore[union-attr]
    for before, after in zip(decoder.blocks, result.decoder.blocks, strict=True):
        for name in before.tensors:
            if name.endswith("bias") or "norm" in name:
                assert after.tensors[name] is before.tensors[name]


def test_keep_one_factors_nothing(make_model: MakeModel, ids: np.ndarray) -> None:
    decoder = Decoder.of(make_model())
    result = factored(decoder, ids, keep=1)
    assert result.edits == ()
    assert result.kept == 1.0
    assert result.decoder.blocks == decoder.blocks


def test_a_budget_below_rank_one_is_refused(make_model: MakeModel, ids: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"dipsvd: keep=0\.01: the budget of"):
        factored(Decoder.of(make_model()), ids, keep=0.01)


def test_each_block_is_fitted_to_the_original_outputs_below(make_model: MakeModel, ids: np.ndarray) -> None:
    """The loss predicted for a site is the error on the inputs that the uncompressed model gives it."""
    decoder = Decoder.of(make_model(3))
    result = factored(decoder, ids, keep=0.5, packed="split", align=1)
    hidden = decoder.run(decoder.blocks[0], decoder.embed(ids))
    x = decoder.blocks[1].module.input_layernorm(hidden).flatten(0, 1).double().numpy()
    spectrum = next(s for s in result.diagnostics["spectra"] if s["site"] == "block.01.q")
    w, new = (d.blocks[1].weight("q").double().numpy() for d in (decoder, result.decoder))
    share = np.linalg.norm(x @ (w - new)) ** 2 / np.linalg.norm(x @ w) ** 2
    predicted = np.interp(spectrum["rank"], spectrum["ranks"], spectrum["values"])
    assert share == pytest.approx(predicted, rel=1e-3)
    assert share != pytest.approx(predicted * 1.01, rel=1e-3)


def test_digests_after_a_fold_are_of_the_combination_as_each_dtype_holds_it(
    make_model: MakeModel, ids: np.ndarray
) -> None:
    decoder = Decoder.of(make_model(4))
    fold = FoldBlocks(1, (1, 2), {1: 0.5, 2: 0.5})
    result = factored(decoder, ids, fold, keep=0.5, align=1, packed="split")
    edit = next(e for e in result.edits if e.site == Site(1, ("down",)))  # type: ignore[union-attr]
    halves = [decoder.blocks[b].weight("down").numpy().astype(np.float16) for b in (1, 2)]
    assert edit.replaces[0].matches(combine(halves, [0.5, 0.5]))  # type: ignore[union-attr]
    assert not edit.replaces[0].matches(halves[0])  # type: ignore[union-attr]
    other = next(e for e in result.edits if e.site == Site(3, ("q",)))  # type: ignore[union-attr]
    assert other.replaces == (WeightDigest.of(decoder.blocks[3].weight("q").numpy()),)  # type: ignore[union-attr]
    assert {e.site.block for e in result.edits} <= {0, 1, 3}  # type: ignore[union-attr]


@pytest.mark.parametrize("packed", ["joint", "split"])
def test_sites_cover_every_role_once(make_model: MakeModel, packed: str) -> None:
    block = Decoder.of(make_model()).blocks[3]
    assert tuple(role for site in sites_of(block, packed) for role in site.roles) == ROLES


def test_run_twice_gives_the_same_edits_and_factors(make_model: MakeModel, ids: np.ndarray) -> None:
    decoder = Decoder.of(make_model())
    one, other = (factored(decoder, ids, keep=0.5, ratios="released") for _ in range(2))
    assert one.edits == other.edits
    for name, array in one.arrays.items():
        np.testing.assert_allclose(other.arrays[name], array, atol=1e-5)


def test_whitening_beats_plain_svd_on_the_bundled_model_and_full_rank_gives_its_logits(specs_5m: Any) -> None:
    """Truncation by singular values alone, same ranks, as the oracle to beat; then no truncation at all."""
    from foldrank.model.checkpoint import Checkpoint
    from foldrank.plans.calibration import calibration_windows
    from foldrank.plans.low_rank.grams import block_statistics
    from foldrank.plans.low_rank.truncation import decompose
    from foldrank.plans.low_rank.whitening import Metric
    from foldrank.plans.models.decoder import load_decoder

    checkpoint = Checkpoint.open(specs_5m)
    decoder = load_decoder(checkpoint)
    ids = calibration_windows(checkpoint, None, 2048, 0).ids
    full, errors, plain = [], 0.0, 0.0
    hidden = decoder.embed(ids)
    for block in decoder.blocks:
        statistics, hidden = block_statistics(decoder, block, hidden)
        gram, w = statistics.inputs["gate"], block.weight("up").double()
        u, _ = decompose(w, Metric(gram))
        full.append(block.with_weights({"up": (w @ u @ u.T).float()}))
        for basis, kept in ((u[:, :60], True), (torch.linalg.svd(w.T)[0][:, :60], False)):
            rest = w - w @ basis @ basis.T
            loss = float((rest * (gram @ rest)).sum() / (w * (gram @ w)).sum())
            errors, plain = (errors + loss, plain) if kept else (errors, plain + loss)
    assert errors < 0.8 * plain
    with torch.no_grad():
        one, other = (d.logits(d.forward(ids[:1])) for d in (decoder, decoder.with_blocks(full)))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
