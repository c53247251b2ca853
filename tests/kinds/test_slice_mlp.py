"""slice_mlp: whatever channels a plan keeps, graph, planner and reference compute the masked model.

The oracle is a numpy decoder whose weights this file cuts, and for real exports the checkpoint in PyTorch, not cut at
all: what the channels cut would add is masked.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kind_rooms import ANATOMY
from nightly import AT_NIGHT
from proved import edited
from synthetic import PlanMaker, Shape, random_decoder, run_onnx, widened, worst
from synthetic.strategies import Written, law, written
from torch_model import CLOSE, IDS, Model
from transformers import AutoConfig, AutoModelForCausalLM

from foldrank.digests import WeightDigest
from foldrank.edits.drop_branch import DropBranch
from foldrank.edits.quantize_weight import QuantizeWeight
from foldrank.edits.slice_mlp import Channels, SliceMlp
from foldrank.edits.storage import FewBits
from foldrank.errors import PassRefused, PlanFormatError, PlanMismatch
from foldrank.graph.safe.load import load_model
from foldrank.graph.view.decoder import read_decoder
from foldrank.model.anatomy import checkpoint_anatomy
from foldrank.model.checkpoint import Checkpoint
from foldrank.passes.configs import shrink_config
from foldrank.passes.pipeline import transform
from foldrank.passes.write import write_model
from foldrank.planfile.document import PlanDocument, Source
from foldrank.planfile.plan import Plan
from foldrank.plans.models.decoder import load_decoder
from foldrank.plans.reference import reference_model
from foldrank.plans.simulate import apply_edits
from foldrank.reporting.card import model_card
from foldrank.runtime.quantizer import quantize
from foldrank.sites import Site


@st.composite
def narrowed(draw: st.DrawFn) -> tuple[Written, PlanMaker]:
    """A random decoder in a random exporter's hand; perhaps a fold, then slices, then pairs and other weights."""
    source = draw(written())
    maker, left = PlanMaker(source.decoder, "0" * 64), list(range(source.decoder.shape.blocks))
    if draw(st.booleans()):
        maker.fold((0, 1), {0: draw(st.sampled_from([0.0, 0.5])), 1: 0.5}, draw(st.sampled_from([0, 1])))
        left.remove(next(iter(maker.folds[0].leaving)))
    numbers = st.sets(st.integers(0, source.decoder.shape.mlp - 1), min_size=2)
    for block in sorted(draw(st.sets(st.sampled_from(left), min_size=1, max_size=4))):
        channels = tuple(sorted(draw(numbers)))
        maker.slice(block, channels, down=draw(st.booleans()), bias=draw(st.booleans()))
        if draw(st.booleans()):
            maker.low_rank(f"block.{block:02d}.up", 1)
        elif draw(st.booleans()):
            maker.replace(f"block.{block:02d}.down")
    return source, maker


def transformed(source: Path, plan: Plan, folder: Path, **also: Any) -> Path:
    """The graph after the plan, written."""
    model, _ = transform(load_model(source), plan, **also)
    folder.mkdir()
    write_model(model, folder)
    return folder / "model.onnx"


@law(12)
@given(narrowed(), st.integers(0, 9))
def test_a_sliced_graph_computes_what_is_left(case: tuple[Written, PlanMaker], seed: int) -> None:
    source, maker = case
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = widened(transformed(source.write(folder / "dense"), maker.plan(), folder / "small"), folder / "w.onnx")
        ids = np.random.default_rng(seed).integers(0, maker.decoder.shape.vocab, 11)
        expected = maker.expected().logits(ids)
        assert worst(run_onnx(small, ids), expected) < CLOSE
        assert worst(run_onnx(small, ids, (4, 1, 6)), expected) < CLOSE


@law(2)
@given(written())
def test_no_channel_cut_changes_nothing(source: Written) -> None:
    maker = PlanMaker(source.decoder, "0" * 64)
    maker.slice(0, tuple(range(source.decoder.shape.mlp)))
    with tempfile.TemporaryDirectory() as name:
        dense = source.write(Path(name) / "dense")
        before = load_model(dense)
        after = load_model(transformed(dense, maker.plan(), Path(name) / "small"))
        tensors = [{k: v.const_value.tobytes() for k, v in m.graph.initializers.items()} for m in (before, after)]
        assert tensors[0] == tensors[1]
        assert [n.op_type for n in after.graph] == [n.op_type for n in before.graph]


@pytest.mark.parametrize(("style", "gated"), [("optimum", False), ("torch", True)])
def test_a_constant_channel_costs_nothing_with_the_bias(style: str, gated: bool, tmp_path: Path) -> None:
    """A channel that does not look at its input always adds the same to down's output."""
    decoder = random_decoder(Shape(gated=gated, all_biased=True, form="gemm"))
    always = np.array([3, 4, 50])
    for block in decoder.blocks:
        for role in ("gate", "up") if gated else ("up",):
            block[role][:, always] = 0
    wanted = decoder.logits(IDS % 50)
    maker = PlanMaker(decoder, "0" * 64)
    for number, block in enumerate(decoder.blocks):
        raw = {role: block[f"bias.{role}"][always].astype(np.float64) for role in ("gate", "up") if role in block}
        first = raw["gate" if gated else "up"]
        constant = first / (1 + np.exp(-first)) * (raw["up"] if gated else 1)
        maker.slice(number, tuple(i for i in range(80) if i not in always), bias=True)
        maker.arrays[f"block.{number:02d}.bias"] = (constant @ block["down"][always]).astype(np.float32)
    small = transformed(Written(decoder, style).write(tmp_path / "dense"), maker.plan(), tmp_path / "small")
    assert worst(run_onnx(small, IDS % 50), wanted) < CLOSE


CUTS = {0: slice(0, None, 2), 1: slice(3, 30), 3: slice(1, None, 3)}
"""Channels that stay, by block: widths that differ, none a multiple of anything."""


@pytest.mark.parametrize("family", ["gpt2", "opt", *(("llama", "gemma2") if AT_NIGHT else ())])
def test_exports_of_families_planner_and_reference_agree_with_masked_pytorch(
    family: str, tiny_models: Path, tmp_path: Path
) -> None:
    """Conv1D, Gemm and biases; cut alone, and with pairs and few bits after."""
    folder = tiny_models / family
    model = Model(folder / "checkpoint")
    width = len(model.weight(0, "down"))
    for block, cut in CUTS.items():
        model.narrow(block, list(range(width))[cut], down=block != 1, bias=block != 0)
    plan = model.plan(Checkpoint.open(folder / "checkpoint").config_sha256)
    small = edited(folder / "optimum" / "model.onnx", model, tmp_path / "small")
    reference = reference_model(Checkpoint.open(folder / "checkpoint"), plan, dtype=torch.float64)
    decoder = apply_edits(plan.edits, load_decoder(Checkpoint.open(folder / "checkpoint")), plan.arrays)
    with torch.no_grad():
        found = [reference(torch.from_numpy(IDS)[None], use_cache=False).logits[0].numpy(),
                 decoder.logits(decoder.forward(IDS[None]))[0].numpy()]
    expected = model.logits(IDS)
    for steps in (None, (17, 1, 1, 21)):
        assert worst(run_onnx(small, IDS, steps), expected) < CLOSE
    assert worst(found[0], expected) < 1e-6
    assert worst(found[1], expected) < CLOSE
    blocks = read_decoder(load_model(small)).blocks
    assert [len(range(width)[CUTS.get(b.number, slice(None))]) for b in blocks] == [
        b.by_role["down"].shape[0] for b in blocks]


@pytest.mark.parametrize(("family", "key"), [("llama", "intermediate_size"), ("gpt2", "n_inner"), ("opt", "ffn_dim")])
def test_one_width_of_all_blocks_stands_in_config_json_and_transformers_builds_it(
    family: str, key: str, tiny_models: Path
) -> None:
    checkpoint = Checkpoint.open(tiny_models / family / "checkpoint")
    model, source = Model(checkpoint.path), checkpoint_anatomy(checkpoint)
    for block in source.numbers:
        model.narrow(block, list(range(block, block + 16)), down=True)
    plan = model.plan(checkpoint.config_sha256)
    config = shrink_config(checkpoint.config, source, plan.anatomy(source))
    assert config == {**checkpoint.config, key: 16}
    built = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), attn_implementation="eager")
    if family == "llama":  # the others' reference has Linears where transformers has Conv1D, or packs
        built.load_state_dict(reference_model(checkpoint, plan).state_dict())
        with torch.no_grad():
            assert worst(built(torch.from_numpy(IDS)[None]).logits[0].numpy(), model.logits(IDS)) < CLOSE
    downs = ("down_proj.weight", "fc2.weight", "mlp.c_proj.weight")
    narrow = [16 in tensor.shape for name, tensor in built.named_parameters() if name.endswith(downs)]
    assert narrow == [True] * len(source.blocks)


def test_widths_that_differ_leave_the_sources_in_config_json() -> None:
    digest = WeightDigest("0" * 64, "0" * 64, "0" * 64)
    config = {"num_hidden_layers": 4, "intermediate_size": 80}
    after = ANATOMY
    for block in range(4):
        after = SliceMlp(block, (80, 48), Channels((0, 3)), None, None, (digest,) * 3).on(after)
        assert shrink_config(config, ANATOMY, after)["intermediate_size"] == (2 if block == 3 else 80)
    assert shrink_config(config, ANATOMY, DropBranch(3, "mlp").on(after)) == config


def test_pairs_and_few_bits_after_a_slice_name_the_sources_weights(tmp_path: Path) -> None:
    decoder = random_decoder(Shape(blocks=3, packed=False))
    maker = PlanMaker(decoder, "0" * 64).slice(1, tuple(range(0, 80, 2)), down=True)
    plan = maker.plan()
    digests = {role: WeightDigest.of(decoder.blocks[1][role]) for role in ("up", "down")}
    few = tuple(QuantizeWeight(Site(1, (role,)), shape, FewBits(8, 16, True, 0), (digests[role],))
                for role, shape in (("up", (48, 40)), ("down", (40, 48))))
    plan = Plan(replace(plan.document, edits=(*plan.edits, *few)), plan.arrays)
    dense = Written(decoder, "optimum").write(tmp_path / "dense")
    small = transformed(dense, plan, tmp_path / "small", quantizer=quantize)
    assert worst(run_onnx(small, IDS % 50), maker.expected().logits(IDS % 50)) < 2e-2
    matrices = {f.roles: f.matrix for f in read_decoder(load_model(small)).blocks[1].few_bits}
    assert {roles: (m.shape, m.dtype) for roles, m in matrices.items()} == {
        ("up",): ((48, 40), "int8"), ("down",): ((40, 48), "int8")}


def test_another_models_weights_and_widths_are_refused_and_leave_the_graph(tmp_path: Path) -> None:
    decoder = random_decoder(Shape(blocks=3))
    dense = load_model(Written(decoder, "genai").write(tmp_path / "dense"))
    nodes = [(n.op_type, [v and v.name for v in n.inputs]) for n in dense.graph]
    edit = PlanMaker(decoder, "0" * 64).slice(0, (0, 1, 5)).slices[0]
    wrong = {
        PlanMismatch: [replace(edit, replaces=edit.replaces[::-1]), replace(edit, block=2)],
        PassRefused: [replace(edit, shape=(81, 48)), replace(edit, replaces=edit.replaces[1:])],
    }
    for error, edits in wrong.items():
        for one in edits:
            source = Source("tiny", "0" * 64, "x", 3, {})
            with pytest.raises(error):
                transform(dense, Plan(PlanDocument(source, None, (), {}, {}, (one,)), {}))
    assert [(n.op_type, [v and v.name for v in n.inputs]) for n in dense.graph] == nodes


def test_channels_that_are_mixed_before_down_are_refused(tmp_path: Path) -> None:
    """A norm between activation and down sees all channels: without some it is another norm."""
    decoder = random_decoder(Shape(blocks=2, gated=False))
    dense = load_model(Written(decoder, "optimum").write(tmp_path / "dense"))
    down = read_decoder(dense).blocks[1].by_role["down"].node
    norm = ir.Node("", "Softmax", [down.inputs[0]], [ir.AttrInt64("axis", -1)], name="/model/layers.1/mlp/Softmax")
    norm.outputs[0].name = "mixed"
    dense.graph.insert_before(down, norm)
    down.replace_input_with(0, norm.outputs[0])
    with pytest.raises(PassRefused, match=r"mlp/Softmax \(Softmax\) is no operator that is known"):
        transform(dense, PlanMaker(decoder, "0" * 64).slice(1, (1, 2)).plan())


def test_an_mlp_becomes_narrower_and_what_is_not_there_breaks_the_law() -> None:
    digest = WeightDigest("0" * 64, "0" * 64, "0" * 64)
    width = ANATOMY.block(1).matrices["down"].shape[0]
    edit = SliceMlp(1, (width, 48), Channels((0, 3, 4)), None, "b", (digest,) * 3)
    after = edit.on(ANATOMY)
    shapes = {role: after.block(1).matrices[role].shape for role in edit.roles}
    assert shapes == {"gate": (48, 3), "up": (48, 3), "down": (3, 48)}
    assert after.block(0) == ANATOMY.block(0)
    assert edit.touch.writes == {Site(1, (role,)) for role in ("gate", "up", "down")}
    with pytest.raises(ValueError, match=r"block\.01\.gate: is .*, the edit says there is none"):
        replace(edit, replaces=(digest,) * 2).on(ANATOMY)
    with pytest.raises(ValueError, match=r"block\.01\.gate: is .*, the edit says \[48, 7\]"):
        replace(edit, shape=(7, 48)).on(ANATOMY)
    with pytest.raises(ValueError, match="no such channels of 4: 4"):
        replace(edit, shape=(4, 48))
    with pytest.raises(ValueError, match="block 9 is not there"):
        replace(edit, block=9).on(ANATOMY)


@given(st.sets(st.integers(0, 300), min_size=1))
def test_channels_are_written_as_runs_in_one_way(numbers: set[int]) -> None:
    channels = Channels(tuple(sorted(numbers)))
    assert Channels.parse(str(channels)) == channels


@pytest.mark.parametrize("text", ["", "0-1 2", "3 1", "1-1", "01", "0-", "-1", "0,1", "5-2", "0-99999999999", "1  2"])
def test_another_spelling_of_channels_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="channels"):
        Channels.parse(text)


def test_a_plan_reads_back_and_holds_its_arrays_to_the_edit(tmp_path: Path) -> None:
    maker = PlanMaker(random_decoder(Shape(blocks=3)), "0" * 64).slice(2, (0, 1, 2, 7), down=True, bias=True)
    plan = maker.plan()
    plan.write(tmp_path)
    assert '"channels": "0-2 7"' in (tmp_path / "plan.json").read_text()
    assert Plan.read(tmp_path).edits == plan.edits
    (tmp_path / "other").mkdir()
    arrays = {**plan.arrays, "block.02.down": plan.arrays["block.02.down"][:3]}
    Plan(plan.document, arrays).write(tmp_path / "other")
    with pytest.raises(PlanFormatError, match=r"block\.02\.down is \(3, 48\), its edit says \(4, 48\)"):
        Plan.read(tmp_path / "other")


def test_the_card_tells_of_widths_and_of_what_config_json_cannot_say(tmp_path: Path) -> None:
    maker = PlanMaker(random_decoder(Shape(blocks=3)), "0" * 64)
    maker.slice(0, (0, 1, 2, 7), bias=True).slice(2, tuple(range(80)))
    (tmp_path / "plan").mkdir()
    maker.plan().write(tmp_path / "plan")
    card = model_card(tmp_path)
    assert "MLPs of 2 blocks keep 4 to 80 of 80 channels." in card
    assert "transformers cannot build the model from `config.json`" in card
    (tmp_path / "plan" / "plan.json").unlink()
    (tmp_path / "config.json").write_text('{"num_hidden_layers": 3}')
    even = PlanMaker(maker.decoder, "0" * 64)
    for block in range(3):
        even.slice(block, (block, 7))
    even.plan().write(tmp_path / "plan")
    assert "transformers cannot build" not in model_card(tmp_path)
    (tmp_path / "plan" / "plan.json").unlink()
    PlanMaker(maker.decoder, "0" * 64).fold((0, 1), {0: 0.5, 1: 0.5}).plan().write(tmp_path / "plan")
    assert "transformers cannot build" not in model_card(tmp_path)
