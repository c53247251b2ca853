"""What units are worth by each criterion, against the model's own forward and autograd with the unit taken away."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from foldrank.plans.method import Result, Task
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.request import parse

MakeModel = Callable[..., Any]
CRITERIA = ["similarity", "fluctuation", "curvature", "loss"]
Unit = tuple[int, str]
"""A block's number, and `block`, `attention` or `mlp`."""


def planned(model: Any, ids: np.ndarray, text: str, seed: int = 5) -> Result:
    request, decoder = parse(text), Decoder.of(model)
    return request.method.run(Task(decoder, ids, seed, source=decoder), request.settings)


@contextmanager
def taken(model: Any, unit: Unit) -> Iterator[Any]:
    """A copy in which the unit adds nothing to the stream."""
    changed = copy.deepcopy(model)
    layer = changed.model.layers[unit[0]]
    linears = {"attention": [layer.self_attn.o_proj], "mlp": [layer.mlp.down_proj],
               "block": [layer.self_attn.o_proj, layer.mlp.down_proj]}
    for linear in linears[unit[1]]:
        torch.nn.init.zeros_(linear.weight)
    yield changed


def seen(model: Any, ids: np.ndarray, number: int) -> dict[str, np.ndarray]:
    """Rows [tokens, C] of the stream around a block's branches."""
    found: dict[str, np.ndarray] = {}
    layer = model.model.layers[number]

    def rows(value: Any) -> np.ndarray:
        return (value[0] if isinstance(value, tuple) else value).detach().flatten(0, 1).double().numpy()

    handles = [
        layer.input_layernorm.register_forward_pre_hook(lambda _m, given: found.update(below=rows(given))),
        layer.post_attention_layernorm.register_forward_pre_hook(lambda _m, given: found.update(between=rows(given))),
        layer.mlp.down_proj.register_forward_pre_hook(lambda _m, given: found.update(read=rows(given))),
        layer.register_forward_hook(lambda _m, _i, output: found.update(above=rows(output)))]
    with torch.no_grad():
        model(torch.from_numpy(ids), use_cache=False)
    for handle in handles:
        handle.remove()
    return found


def slopes(model: Any, ids: np.ndarray, number: int, seed: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Gradients by the block's output and by what its down reads [tokens, ..], of -log p of the text's own next tokens,
    or of drawn labels. Windows in batches of 512 tokens draw one after the other: these are all of one."""
    held: dict[str, torch.Tensor] = {}

    def keep(name: str, tensor: torch.Tensor) -> torch.Tensor:
        held[name] = tensor.requires_grad_()
        return tensor

    layer = model.model.layers[number]
    handles = [layer.register_forward_hook(lambda _m, _i, output: keep("above", output)),
               layer.mlp.down_proj.register_forward_pre_hook(lambda _m, given: (keep("read", given[0]),))]
    with torch.enable_grad():
        logs = model(torch.from_numpy(ids), use_cache=False).logits.log_softmax(-1)
        if seed is None:
            chosen = logs[:, :-1].gather(-1, torch.from_numpy(ids[:, 1:, None]))
        else:
            drawn = torch.multinomial(logs.detach().exp().flatten(0, 1), 1,
                                      generator=torch.Generator().manual_seed(seed))
            chosen = logs.flatten(0, 1).gather(-1, drawn)
        found = torch.autograd.grad(-chosen.sum(), [held["above"], held["read"]])
    for handle in handles:
        handle.remove()
    above, read = (part.flatten(0, 1).double().numpy() for part in found)
    return above, read


def worth(model: Any, ids: np.ndarray, unit: Unit, criterion: str) -> float:
    at = seen(model, ids, unit[0])
    below = at["between" if unit[1] == "mlp" else "below"]
    above = at["between" if unit[1] == "attention" else "above"]
    if criterion == "similarity":
        lengths = np.linalg.norm(below, axis=1) * np.linalg.norm(above, axis=1)
        return float(1 - ((below * above).sum(axis=1) / lengths).mean())
    if criterion == "fluctuation":
        return float((above - below).var(axis=0).sum() / np.square(above).sum(axis=1).mean())
    with taken(model, unit) as changed:
        if criterion == "loss":
            tokens = torch.from_numpy(ids)
            with torch.no_grad():
                return float(changed(input_ids=tokens, labels=tokens, use_cache=False).loss)
        change = seen(changed, ids, unit[0])["above"] - at["above"]
    slope, _ = slopes(model, ids, unit[0], 5)
    return float(np.trace(change @ (slope.T @ slope / len(slope)) @ change.T) / len(change) / 2)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_blocks_and_branches_leave_by_what_they_are_worth(
    make_model: MakeModel, ids: np.ndarray, criterion: str
) -> None:
    model = make_model(4, spread=0.1)
    units = {"block": [(number, "block") for number in (1, 2, 3)],
             "branch": [(number, branch) for number in range(4) for branch in ("attention", "mlp")]}
    wanted = {unit: worth(model, ids, unit, criterion) for held in units.values() for unit in held}
    blocks = planned(model, ids, f"shortgpt:blocks=2,criterion={criterion}")
    assert blocks.diagnostics["block_scores"] == {
        str(number): pytest.approx(wanted[number, kind], rel=1e-3, abs=1e-6) for number, kind in units["block"]}
    gone = sorted(units["block"], key=lambda unit: wanted[unit])[:2]
    assert [block.number for block in blocks.decoder.blocks] == [n for n in range(4) if (n, "block") not in gone]
    branches = planned(model, ids, f"llm_drop:branches=6,criterion={criterion}")
    assert branches.diagnostics["branch_scores"] == {
        f"block.{number:02d}.{branch}": pytest.approx(wanted[number, branch], rel=1e-3, abs=1e-6)
        for number, branch in units["branch"]}
    left = sorted(units["branch"], key=lambda unit: wanted[unit])[:2]
    assert sorted((edit.block, edit.branch) for edit in branches.edits) == sorted(left)  # type: ignore[attr-defined]


def test_methods_differ_by_when_they_ask_alone(make_model: MakeModel, ids: np.ndarray) -> None:
    model = make_model(5, spread=0.1)
    for criterion in CRITERIA:
        one, other = (planned(model, ids, f"{name}:blocks=3,criterion={criterion}")
                      for name in ("shortgpt", "shortened"))
        assert one.edits == other.edits
        assert one.diagnostics == other.diagnostics
        first = planned(model, ids, f"sleb:blocks=4,criterion={criterion}")
        assert first.edits == planned(model, ids, f"shortgpt:blocks=4,criterion={criterion}").edits


def test_gates_shut_where_the_others_can_do_without(make_model: MakeModel, ids: np.ndarray) -> None:
    """Two blocks add next to nothing."""
    model = make_model(6, spread=0.1)
    with torch.no_grad():
        for block in (2, 4):
            model.model.layers[block].self_attn.o_proj.weight *= 0.01
            model.model.layers[block].mlp.down_proj.weight *= 0.01
    result = planned(model, ids, "shortgpt:blocks=4,criterion=gates")
    scores = {int(block): gate for block, gate in result.diagnostics["block_scores"].items()}
    assert [block.number for block in result.decoder.blocks] == [0, 1, 3, 5]
    assert max(scores[2], scores[4]) < 0.05 < min(scores[block] for block in (1, 3, 5))
    assert all(0 <= gate <= 1 for gate in scores.values())
    again = planned(model, ids, "shortened:blocks=4,criterion=gates")
    assert again.diagnostics == result.diagnostics


@pytest.mark.parametrize("criterion", CRITERIA)
def test_channels_leave_by_what_they_are_worth(make_model: MakeModel, ids: np.ndarray, criterion: str) -> None:
    model, scores = make_model(3, spread=0.1), {}
    for number in range(3):
        at, down = seen(model, ids, number), model.model.layers[number].mlp.down_proj.weight.double().numpy()
        read, output = at["read"], at["above"]
        if criterion == "similarity":
            given = read[:, :, None] * down.T[None]
            left = output[:, None] - given
            cosines = np.einsum("tc,tic->ti", output, left) / np.linalg.norm(left, axis=-1)
            found = 1 - (cosines / np.linalg.norm(output, axis=-1)[:, None]).mean(axis=0)
        elif criterion == "fluctuation":
            found = read.var(axis=0) * np.square(down).sum(axis=0)
        else:
            _, slope = slopes(model, ids, number, 5 if criterion == "curvature" else None)
            found = (np.square(read).mean(axis=0) * np.square(slope).mean(axis=0) / 2 if criterion == "curvature"
                     else np.abs((read * slope).sum(axis=0)) / (ids.size - len(ids)))
        raw = criterion in ("curvature", "loss")
        scores |= {(number, channel): score for channel, score in enumerate(
            found if raw else (found - found.mean()) / found.std(ddof=1))}
    result = planned(model, ids, f"flap:keep=0.8,align=8,criterion={criterion}")
    kept = {(edit.block, channel) for edit in result.edits for channel in edit.channels.numbers}  # type: ignore
    for number in range(3):
        own = sorted((channel for n, channel in scores if n == number), key=lambda c: -scores[number, c])
        width = sum(n == number for n, _ in kept) or len(own)
        assert {(number, channel) for channel in own[:width]} == ({k for k in kept if k[0] == number} or {
            (number, channel) for channel in own})
