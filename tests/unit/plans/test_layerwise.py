"""Layer-Wise Quantization: its scores against numpy, whose bits are which, and how many a file then holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from proved import Planned, prove

import foldrank
from foldrank.edits.low_rank import LowRank
from foldrank.edits.quantize_weight import QuantizeWeight
from foldrank.graph.safe.load import load_model
from foldrank.plans.compose import parse_all, run_all
from foldrank.plans.method import Result, Task
from foldrank.plans.methods.layerwise import Settings, chosen, lim
from foldrank.plans.models.decoder import Decoder
from foldrank.runtime.quantizer import quantize

MakeModel = Callable[..., Any]
SIZES = "block_size=16,head_bits=none,embedding_bits=none"


def planned(decoder: Decoder, ids: np.ndarray, *methods: str) -> Result:
    return run_all(decoder, parse_all(methods), ids, 0)[-1].result


def bits(result: Result) -> dict[int, set[int]]:
    found: dict[int, set[int]] = {}
    for edit in result.edits:
        if isinstance(edit, QuantizeWeight):
            found.setdefault(edit.site.block, set()).add(edit.storage.bits)
    return found


def uneven(make_model: MakeModel) -> Any:
    """A model whose blocks turn the stream more or less, and whose weights are spread in other ways."""
    model = make_model(5)
    with torch.no_grad():
        for number, size in enumerate((0.9, 0.2, 1.4, 0.5, 0.05)):
            model.model.layers[number].mlp.down_proj.weight.mul_(size)
            model.model.layers[number].mlp.up_proj.weight.copy_(
                model.model.layers[number].mlp.up_proj.weight ** (1, 3, 5, 1, 3)[number])
    return model


def test_lim_is_how_far_a_block_turns_its_input(make_model: MakeModel, ids: np.ndarray) -> None:
    model = uneven(make_model)
    states: list[np.ndarray] = []
    hooks = [layer.register_forward_hook(lambda _m, given, out: states.extend(
        part.double().numpy() for part in (given[0], out[0] if isinstance(out, tuple) else out)))
        for layer in model.model.layers]
    with torch.no_grad():
        model(input_ids=torch.from_numpy(ids), use_cache=False)
    for hook in hooks:
        hook.remove()
    wanted = [1 - ((a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)).mean()
              for a, b in zip(states[::2], states[1::2], strict=True)]
    decoder = Decoder.of(model)
    assert list(lim(Task(decoder, ids, 0, source=decoder)).values()) == pytest.approx(wanted, abs=1e-5)
    found = bits(planned(decoder, ids, f"layerwise:high_blocks=2,rounding=nearest,{SIZES}"))
    assert {block for block, held in found.items() if held == {8}} == set(np.argsort(wanted)[-2:].tolist())
    assert all(held in ({8}, {4}) for held in found.values())


def test_zd_is_the_share_of_weights_beyond_one_deviation_and_runs_no_text(
    make_model: MakeModel, ids: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = uneven(make_model)
    monkeypatch.setattr(Decoder, "run", lambda *_: pytest.fail("a block was run"))
    shares = []
    for layer in model.model.layers:
        flat = np.concatenate([p.detach().double().numpy().ravel() for name, p in layer.named_parameters()
                               if "proj" in name])
        shares.append(((flat - flat.mean()) / flat.std() > 1).mean())
    result = planned(Decoder.of(model), ids, f"layerwise:score=zd,high_blocks=2,rounding=nearest,low=2,{SIZES}")
    assert {block for block, held in bits(result).items() if held == {8}} == set(np.argsort(shares)[:2].tolist())
    assert set().union(*bits(result).values()) == {2, 8}
    told = result.diagnostics["layerwise_scores"]
    assert [-told[str(block)] for block in range(5)] == pytest.approx(shares)


@examples(max_examples=100, deadline=None)
@given(data=st.data(), blocks=st.integers(1, 30), pair=st.sampled_from([(2, 4), (2, 8), (4, 8)]))
def test_the_average_is_at_most_what_is_asked_and_one_block_more_would_pass_it(
    data: st.DataObject, blocks: int, pair: tuple[int, int]
) -> None:
    low, high = pair
    sizes = dict(enumerate(data.draw(st.lists(st.integers(1, 10**7), min_size=blocks, max_size=blocks))))
    importance = dict(enumerate(data.draw(st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.7]) | st.floats(-1, 2),
                                                   min_size=blocks, max_size=blocks))))
    asked = data.draw(st.floats(low, high))
    found = chosen(importance, sizes, Settings(bits=asked, low=low, high=high))  # type: ignore[arg-type]

    def average(held: frozenset[int]) -> float:
        return sum((high if b in held else low) * size for b, size in sizes.items()) / sum(sizes.values())

    assert average(found) <= asked + 1e-6
    left = [b for b in sizes if b not in found]
    if left:
        following = min(left, key=lambda b: (-importance[b], b))
        assert average(found | {following}) > asked - 1e-6
        assert all(importance[b] >= importance[following] for b in found)


@pytest.mark.parametrize(("blocks", "same"), [(0, 4), (2, 8)])
def test_all_blocks_alike_is_quantize(make_model: MakeModel, ids: np.ndarray, blocks: int, same: int) -> None:
    decoder = Decoder.of(make_model(2))
    one = planned(decoder, ids, f"layerwise:high_blocks={blocks},block_size=16")
    other = planned(decoder, ids, f"quantize:bits={same},block_size=16")
    assert one.edits == other.edits
    assert all(np.array_equal(one.arrays[name], array) for name, array in other.arrays.items())
    assert one.predicted["layerwise.bits"] == same


def test_a_file_holds_the_bits_that_are_asked_for(tiny_models: Path, tmp_path: Path) -> None:
    """Counted by what the graph's MatMulNBits are told and hold; and it computes what is planned."""
    folder = tiny_models / "llama"
    plan = foldrank.plan(folder / "checkpoint", methods=[f"layerwise:bits=6,accuracy=0,rounding=nearest,{SIZES}"],
                         calibration_tokens=256)
    graph = prove(folder / "optimum" / "model.onnx", Planned(folder / "checkpoint", plan), tmp_path, quantize)
    weights, held = 0, 0
    for node in (node for node in load_model(graph).graph if node.op_type == "MatMulNBits"):
        n_in, n_out, bits = (node.attributes[name].as_int() for name in ("K", "N", "bits"))
        assert node.inputs[1].const_value.nbytes == n_out * -(-n_in // 16) * 16 * bits // 8
        weights, held = weights + n_in * n_out, held + n_in * n_out * bits
    assert held / weights == 6 == plan.document.predicted["layerwise.bits"]


def test_of_pairs_the_numbers_they_hold_count(make_model: MakeModel, ids: np.ndarray) -> None:
    decoder = Decoder.of(uneven(make_model))
    first, last = (run.result for run in run_all(decoder, parse_all(
        ["welore:keep=0.6,align=2", f"layerwise:bits=5.5,rounding=nearest,{SIZES}"]), ids, 0))
    found = bits(last)
    sizes = {block.number: block.site_parameters for block in decoder.blocks}
    for edit in first.edits:
        assert isinstance(edit, LowRank)
        sizes[edit.site.block] += edit.rank * sum(edit.shape) - edit.shape[0] * edit.shape[1]
    average = sum(max(found[block]) * size for block, size in sizes.items()) / sum(sizes.values())
    assert average == pytest.approx(last.predicted["layerwise.bits"])
    assert 4 < average <= 5.5


@pytest.mark.parametrize(("text", "said"), [
    ("layerwise", "exactly one of bits, high_blocks"), ("layerwise:bits=6,high_blocks=2", "exactly one of"),
    ("layerwise:bits=3", "bits=3 is not between low=4 and high=8"), ("layerwise:bits=4,low=4,high=4", "not below"),
    ("layerwise:high_blocks=6", "the model has 5"),
])
def test_what_cannot_be_asked_is_told(make_model: MakeModel, ids: np.ndarray, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        planned(Decoder.of(make_model(5)), ids, text)


def test_blocks_that_share_a_matrix_cannot_have_bits_of_their_own(make_model: MakeModel, ids: np.ndarray) -> None:
    with pytest.raises(ValueError, match="blocks share a matrix"):
        planned(Decoder.of(make_model(4)), ids, "basis_sharing:keep=0.6", "layerwise:bits=6,block_size=16")
