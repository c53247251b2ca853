"""Methods that drop attentions and MLPs, against the same done naively on copies of the model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch

from foldrank.edits.laws import check_edits
from foldrank.errors import SourceError
from foldrank.plans.compose import parse_all, run_all
from foldrank.plans.depth.branches import Place
from foldrank.plans.method import Result, Task
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.request import parse

MakeModel = Callable[..., Any]


def planned(model: Any, ids: np.ndarray, text: str) -> Result:
    request, decoder = parse(text), Decoder.of(model)
    return request.method.run(Task(decoder, ids, 0, source=decoder), request.settings)


def dropped(result: Result) -> list[tuple[int, str]]:
    return [(edit.block, edit.branch) for edit in result.edits]  # type: ignore[attr-defined]


def silenced(model: Any, places: Iterable[tuple[int, str]]) -> Any:
    """A copy whose branches at these places give zeros."""
    changed = copy.deepcopy(model)
    for block, branch in places:
        layer = changed.model.layers[block]
        linear = layer.self_attn.o_proj if branch == "attention" else layer.mlp.down_proj
        torch.nn.init.zeros_(linear.weight)
    return changed


def naive_divergence(model: Any, ids: np.ndarray, places: Iterable[tuple[int, str]]) -> float:
    with torch.no_grad():
        first, second = (torch.log_softmax(m(torch.from_numpy(ids), use_cache=False).logits.double(), -1)
                         for m in (model, silenced(model, places)))
    return float((first.exp() * (first - second)).sum(-1).mean())


def test_finercut_drops_the_best_of_all_single_removals_each_time(make_model: MakeModel, ids: np.ndarray) -> None:
    model = make_model(4)
    result = planned(model, ids, "finercut:branches=4,windows=6,tokens=24")
    every = [(block, branch) for block in range(4) for branch in ("attention", "mlp")]
    gone: list[tuple[int, str]] = []
    for name, found in result.diagnostics["branch_scores"].items():  # in the order in which they left
        costs = {place: naive_divergence(model, ids, [*gone, place]) for place in every if place not in gone}
        gone.append(min(costs, key=lambda place: costs[place]))
        assert name == str(Place(*gone[-1]))  # type: ignore[arg-type]
        assert found == pytest.approx(costs[gone[-1]], rel=1e-4)
    assert len(gone) == 4
    assert sorted(dropped(result)) == sorted(gone)
    assert result.predicted["finercut.kl_nats"] == found
    with torch.no_grad():
        wanted = silenced(model, gone)(torch.from_numpy(ids), use_cache=False).logits
        torch.testing.assert_close(result.decoder.logits(result.decoder.forward(ids)), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_finercut_never_diverges_more_than_llm_drop_at_a_share(
    make_model: MakeModel, ids: np.ndarray, seed: int
) -> None:
    """On its own text, whatever the sizes of attentions and MLPs are."""
    model = make_model(4, seed=seed)
    result = planned(model, ids, "finercut:keep=0.7,windows=6,tokens=24")
    ranked = planned(model, ids, "llm_drop:keep=0.7,windows=6,tokens=24")
    found = result.predicted["finercut.kl_nats"]
    assert found == pytest.approx(naive_divergence(model, ids, dropped(result)), rel=1e-4)
    assert found <= naive_divergence(model, ids, dropped(ranked)) * (1 + 1e-4)
    assert result.kept <= 0.7


def naive_importances(model: Any, ids: np.ndarray) -> dict[tuple[int, str], float]:
    """From the inputs of both norms of every block and what leaves it, seen by hooks."""
    seen: dict[tuple[int, int], np.ndarray] = {}
    handles = []
    for block, layer in enumerate(model.model.layers):
        for place, module in enumerate((layer.input_layernorm, layer.post_attention_layernorm)):
            handles.append(module.register_forward_pre_hook(
                lambda _m, given, key=(block, place): seen.update({key: given[0].double().numpy()})))
        handles.append(layer.register_forward_hook(lambda _m, _i, output, key=(block, 2): seen.update(
            {key: (output[0] if isinstance(output, tuple) else output).double().numpy()})))
    with torch.no_grad():
        model(torch.from_numpy(ids), use_cache=False)
    for handle in handles:
        handle.remove()

    def turned(a: np.ndarray, b: np.ndarray) -> float:
        return float(1 - ((a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)).mean())

    return {(block, branch): turned(seen[block, place], seen[block, place + 1])
            for block in range(len(model.model.layers)) for place, branch in enumerate(("attention", "mlp"))}


@pytest.mark.parametrize("which", ["attention", "mlp", "both"])
def test_llm_drop_drops_what_turns_the_stream_least(make_model: MakeModel, ids: np.ndarray, which: str) -> None:
    model = make_model(5)
    wanted = naive_importances(model, ids)
    able = [place for place in wanted if which in (place[1], "both")]
    result = planned(model, ids, f"llm_drop:branches={len(able) - 2},which={which}")
    assert dropped(result) == sorted(sorted(able, key=lambda place: wanted[place])[:2])
    scores = result.diagnostics["branch_scores"]
    assert scores == {str(Place(*place)): pytest.approx(wanted[place], abs=1e-5) for place in able}  # type: ignore


def test_ffn_skip_drops_mlps_between_the_ends(make_model: MakeModel, ids: np.ndarray) -> None:
    model = make_model(6)
    wanted = {place: score for place, score in naive_importances(model, ids).items()
              if place[1] == "mlp" and place[0] not in (0, 1, 5)}
    result = planned(model, ids, "ffn_skip:branches=1,protect_first=2")
    assert dropped(result) == sorted(sorted(wanted, key=lambda place: wanted[place])[:2])
    assert [block.number for block in result.decoder.blocks] == list(range(6))


def test_keep_is_the_share_of_weights_and_never_exceeded(make_model: MakeModel, ids: np.ndarray) -> None:
    """Of these blocks an attention is 42 * (48 + 16 + 16) + 48 * 42 numbers, an MLP 3 * 42 * 72."""
    model, attention, mlp = make_model(4), 5376, 9072
    result = planned(model, ids, "llm_drop:keep=0.7")
    gone = [attention if branch == "attention" else mlp for _, branch in dropped(result)]
    assert result.kept == pytest.approx(1 - sum(gone) / (4 * (attention + mlp)))
    assert result.kept <= 0.7
    assert result.kept + max(gone) / (4 * (attention + mlp)) > 0.7
    assert result.decoder.site_parameters == 4 * (attention + mlp) - sum(gone)
    assert planned(model, ids, "llm_drop:keep=1").edits == ()


@pytest.mark.parametrize("method", ["llm_drop", "finercut"])
def test_no_branch_is_gone_that_the_budget_does_not_need(make_model: MakeModel, ids: np.ndarray, method: str) -> None:
    """A small attention leaves first; the MLP that leaves next is enough alone."""
    model = make_model(2)
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight *= 1e-4
        model.model.layers[0].mlp.down_proj.weight *= 1e-3
    assert dropped(planned(model, ids, f"{method}:branches=3")) == [(1, "attention")]
    assert dropped(planned(model, ids, f"{method}:keep=0.7")) == [(0, "mlp")]


def test_a_block_without_branches_is_gone_and_one_attention_stays(make_model: MakeModel, ids: np.ndarray) -> None:
    result = planned(make_model(3), ids, "llm_drop:branches=1")
    assert len(result.decoder.blocks) == 1
    assert result.decoder.blocks[0].roles == ("q", "k", "v", "o")
    with pytest.raises(ValueError, match=r"finercut: branches=0 cannot be reached: 1 branches"):
        planned(make_model(2), ids, "finercut:branches=0")
    with pytest.raises(ValueError, match=r"llm_drop: keep=0\.5 cannot be reached: 1 branches and 0\.721"):
        planned(make_model(4), ids, "llm_drop:keep=0.5,which=attention")
    with pytest.raises(ValueError, match="exactly one of keep, branches"):
        parse("ffn_skip:keep=0.5,branches=3")


def test_a_model_that_norms_its_sums_loses_no_branch(make_model: MakeModel, ids: np.ndarray) -> None:
    model = make_model(2)
    model.config.do_layer_norm_before = False
    with pytest.raises(SourceError, match="no branch can be dropped"):
        planned(model, ids, "llm_drop:branches=3")


def test_branches_leave_between_folds_and_pairs(make_model: MakeModel, ids: np.ndarray) -> None:
    """Methods behind edit what is left alone."""
    decoder = Decoder.of(make_model(6))
    methods = ["slm:blocks=4", "finercut:branches=6,windows=2", "svd:keep=0.8,align=4", "quantize:block_size=16"]
    edits = [edit for run in run_all(decoder, parse_all(methods), ids, 0) for edit in run.result.edits]
    check_edits(edits, 6)
    kinds = list(dict.fromkeys(edit.kind for edit in edits))
    assert kinds == ["fold_blocks", "drop_branch", "low_rank", "quantize_weight", "quantize_head"]
    with pytest.raises(ValueError, match="drop branches come before those that replace weights"):
        parse_all(["svd:keep=0.8", "llm_drop:branches=3"])
    with pytest.raises(ValueError, match="several of them drop branches"):
        parse_all(["ffn_skip:branches=3", "llm_drop:branches=3"])
