"""drop_branch: its facts, and that graph, reference and planner compute the model whose branch adds nothing.

Oracles: a forward pass in float64 numpy, and transformers' own modules whose branch's last linear gives zeros.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kind_rooms import SIX
from nightly import NIGHTLY
from synthetic import PlanMaker, Shape, random_decoder, run_onnx, widened, worst, write_graph, write_standard
from synthetic.strategies import Written, law, written

from foldrank.edits.anatomy import Anatomy, BlockAnatomy, Matrix
from foldrank.edits.base import BRANCHES
from foldrank.edits.drop_branch import DropBranch
from foldrank.errors import PassRefused, PlanMismatch
from foldrank.graph.anatomy import read_anatomy
from foldrank.graph.invariants import check_file
from foldrank.graph.safe.load import load_model
from foldrank.graph.view.decoder import read_decoder
from foldrank.passes.pipeline import transform
from foldrank.passes.write import write_model
from foldrank.planfile.plan import Plan
from foldrank.plans.simulate import apply_edits
from foldrank.sites import ROLES, Site
from foldrank.verbs.inspect import inspect

pytest.importorskip("torch")
import torch
from tiny_families import TINY, save
from torch_model import Model

from foldrank.model.checkpoint import Checkpoint
from foldrank.plans.models.decoder import load_decoder
from foldrank.plans.reference import reference_model


def anatomy(blocks: int = 3) -> Anatomy:
    matrices = {role: Matrix((4, 6)) for role in ROLES}
    return Anatomy(tuple(BlockAnatomy(n, matrices) for n in range(blocks)), None, False, 2, 1, 2)


def test_a_block_loses_its_branch_and_with_both_itself() -> None:
    after = DropBranch(1, "attention").on(anatomy())
    assert after.block(1).branches == ("mlp",)
    assert (after.numbers, after.cached) == ((0, 1, 2), (0, 2))
    assert DropBranch(1, "mlp").on(after).numbers == (0, 2)
    edit = DropBranch(1, "mlp")
    assert edit.touch.removes == edit.touch.reads == {Site(1, (role,)) for role in ("gate", "up", "down")}


def test_what_is_not_there_and_the_last_attention_do_not_leave() -> None:
    with pytest.raises(ValueError, match="no such block"):
        DropBranch(-1, "mlp")
    after = DropBranch(1, "attention").on(anatomy(2))
    with pytest.raises(ValueError, match="block 1 has no attention"):
        DropBranch(1, "attention").on(after)
    with pytest.raises(ValueError, match="block 0 has the last attention"):
        DropBranch(0, "attention").on(after)


def test_it_tells_people_and_machines_what_it_does() -> None:
    edits = [DropBranch(0, "attention"), DropBranch(0, "mlp"), DropBranch(4, "mlp")]
    assert edits[0].sentence() == "Block 0 has no attention any more."
    assert [edit.row() for edit in edits][2] == {"block": 4, "branch": "mlp"}
    assert DropBranch.table(edits).rows == [("attention", "0"), ("MLP", "0, 4")]
    facts: dict[str, Any] = {}
    for edit in edits:
        facts |= edit.facts(lambda names: "")
    assert list(facts) == ["block.00 attention", "block.00 mlp", "block.04 mlp"]


def small(source: Path, plan: Plan, folder: Path) -> Path:
    """The graph after the plan, written and checked."""
    model, _ = transform(load_model(source), plan)
    folder.mkdir(exist_ok=True)
    write_model(model, folder)
    check_file(folder / "model.onnx", "written")
    return folder / "model.onnx"


@st.composite
def dropped(draw: st.DrawFn) -> tuple[Written, PlanMaker]:
    """A random decoder that loses branches and keeps an attention; perhaps a fold before, a pair after."""
    source = draw(written())
    shape, maker = source.decoder.shape, PlanMaker(source.decoder, "0" * 64)
    blocks = list(range(shape.blocks))
    if shape.blocks > 2 and draw(st.booleans()):
        maker.fold((1, 2), {1: 0.5, 2: 0.5})
        blocks.remove(2)
    every = [(block, branch) for block in blocks for branch in BRANCHES]
    chosen = draw(st.sets(st.sampled_from(every), min_size=1))
    if shape.norms == "sum":  # a block that norms its sums is not nothing without both
        chosen -= {(block, "mlp") for block, branch in chosen if branch == "attention"}
    if {(block, "attention") for block in blocks} <= chosen:
        chosen.remove((draw(st.sampled_from(blocks)), "attention"))
    for block, branch in sorted(chosen):
        maker.drop(block, branch)
    kept = [block for block in blocks if (block, "attention") not in chosen]
    if kept and draw(st.booleans()):
        maker.low_rank(f"block.{kept[0]:02d}.o", 3)
    return source, maker


@law(6)
@given(dropped(), st.integers(0, 9))
def test_graph_computes_the_model_without_its_branches(case: tuple[Written, PlanMaker], seed: int) -> None:
    source, maker = case
    expected = maker.expected()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dense = source.write(folder / "dense")
        path = small(dense, maker.plan(), folder / "small")
        wide = widened(path, folder / "wide.onnx")
        ids = np.random.default_rng(seed).integers(0, maker.decoder.shape.vocab, 11)
        wanted = expected.logits(ids)
        assert worst(run_onnx(wide, ids), wanted) < 1e-4
        assert worst(run_onnx(wide, ids, (4, 1, 6)), wanted) < 1e-4
        after = read_decoder(load_model(path))
        cached = [block.number for block in after.blocks if block.kv is not None]
        assert [block.kv.number for block in after.blocks if block.kv is not None] == list(range(len(cached)))
        assert len(cached) == sum("o" in block for block in expected.blocks)
        assert len(after.blocks) == len(expected.blocks)
        assert read_anatomy(after) == maker.plan().anatomy(read_anatomy(read_decoder(load_model(dense))))
        rows = inspect(path)
        assert (rows["blocks"], rows["kv"]["pairs"]) == (len(expected.blocks), len(cached))


def test_merged_norms_stay_merged(tmp_path: Path) -> None:
    """Each branch of a genai graph brings one norm, merged with the sum before it; none is left over or taken apart."""
    decoder = random_decoder(Shape(blocks=5), seed=3)
    write_graph(decoder, tmp_path / "model.onnx")
    maker = PlanMaker(decoder, "0" * 64).drop(1, "attention").drop(2, "mlp").drop(4, "mlp")
    graph = onnx.load(small(tmp_path / "model.onnx", maker.plan(), tmp_path / "small"), load_external_data=False).graph
    norms = [node.op_type for node in graph.node if "Norm" in node.op_type]
    assert norms == ["SimplifiedLayerNormalization"] + ["SkipSimplifiedLayerNormalization"] * 7
    assert not any(name.startswith("model.layers.1.input_layernorm") for name in (t.name for t in graph.initializer))


def test_other_weights_than_the_plans_are_not_dropped(tmp_path: Path) -> None:
    decoder, other = (random_decoder(Shape(blocks=3), seed=seed) for seed in (1, 2))
    write_graph(decoder, tmp_path / "model.onnx")
    with pytest.raises(PlanMismatch, match=r"block\.01\.(q|k|v|o)"):
        transform(load_model(tmp_path / "model.onnx"), PlanMaker(other, "0" * 64).drop(1, "attention").plan())


def test_a_block_that_norms_its_sums_does_not_lose_both(tmp_path: Path) -> None:
    decoder = random_decoder(Shape(blocks=3, norms="sum"), seed=1)
    write_standard(decoder, tmp_path / "model.onnx")
    plan = PlanMaker(decoder, "0" * 64).drop(1, "attention").drop(1, "mlp").plan()
    with pytest.raises(PassRefused, match="block 1: norms what its branches are added to"):
        transform(load_model(tmp_path / "model.onnx"), plan)


def test_a_result_whose_shape_is_asked_elsewhere_stays(tmp_path: Path) -> None:
    decoder = random_decoder(Shape(blocks=3, form="gemm"), seed=1)
    write_standard(decoder, tmp_path / "model.onnx")
    model = load_model(tmp_path / "model.onnx")
    asking = [next(node for node in model.graph if f"layers.{block}/mlp/down_proj/Shape" in str(node.name))
              for block in (1, 2)]
    asking[1].replace_input_with(0, asking[0].inputs[0])
    with pytest.raises(PassRefused, match=r"block 1, mlp: /model/layers\.2/mlp/down_proj/Shape.* reads what it makes"):
        transform(model, PlanMaker(decoder, "0" * 64).drop(1, "mlp").plan())


def quantised(graph: Path, folder: Path) -> Path:
    """Every MatMul of a weight in 8 bits, by ONNX Runtime's own quantiser."""
    from onnxruntime.quantization import matmul_nbits_quantizer as library

    config = library.DefaultWeightOnlyQuantConfig(block_size=16, is_symmetric=True, bits=8)
    made = library.MatMulNBitsQuantizer(onnx.load(graph), algo_config=config)
    made.process()
    folder.mkdir()
    onnx.save(made.model.model, folder / "model.onnx")
    return folder / "model.onnx"


def test_branches_of_few_bits_leave_as_others_do(tmp_path: Path) -> None:
    """To quantise and then to drop is to drop and then to quantise."""
    decoder = random_decoder(Shape(blocks=4), seed=2)
    write_graph(decoder, tmp_path / "model.onnx")
    plan = PlanMaker(decoder, "0" * 64).drop(0, "attention").drop(2, "mlp").drop(3, "attention").plan()
    first = small(quantised(tmp_path / "model.onnx", tmp_path / "few"), plan, tmp_path / "few-dropped")
    second = quantised(small(tmp_path / "model.onnx", plan, tmp_path / "dropped"), tmp_path / "dropped-few")
    ids = np.arange(11)
    np.testing.assert_allclose(run_onnx(first, ids), run_onnx(second, ids), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", [
    "llama", "gemma2", "gpt2", "opt", "gptneox", "falcon",
    *(pytest.param(name, marks=NIGHTLY) for name in TINY
      if name not in ("llama", "gemma2", "gpt2", "opt", "gptneox", "falcon")),
])
def test_reference_and_planner_compute_the_model_without_its_branches(
    family: str, tmp_path: Path
) -> None:
    """And the reference decodes with its cache as without."""
    checkpoint = Checkpoint.open(save(TINY[family], tmp_path / family))
    model = Model(checkpoint.path)
    for drop in SIX:
        model.drop(*drop)
    plan = model.plan(checkpoint.config_sha256)
    reference: Any = reference_model(checkpoint, plan)
    dense = load_decoder(checkpoint)
    planned = apply_edits(plan.edits, dense, {})
    ids = np.random.default_rng(0).integers(3, 250, 16)
    wanted = model.logits(ids)
    tokens = torch.from_numpy(ids)[None]
    with torch.no_grad():
        assert worst(reference(tokens, use_cache=False).logits[0].numpy(), wanted) < 1e-4
        assert worst(planned.logits(planned.forward(ids[None]))[0].numpy(), wanted) < 1e-4
        state = reference(tokens[:, :10], use_cache=True)
        parts = [state.logits]
        for position in range(10, 16):
            state = reference(tokens[:, position : position + 1], past_key_values=state.past_key_values, use_cache=True)
            parts.append(state.logits)
    assert worst(torch.cat(parts, dim=1)[0].numpy(), wanted) < 1e-4
    assert [block.number for block in planned.blocks] == [0, 1, 2, 4, 5]
    assert planned.site_parameters == dense.site_parameters - sum(
        dense.blocks[block].weight(role).numel() for block, branch in SIX for role in dense.family.roles
        if role in BRANCHES[branch])


def test_norms_leave_with_the_branch_they_serve(tmp_path: Path) -> None:
    """Read off what moves the block's output: a tensor that is counted does, one that is not does not."""
    for family in ("gemma2", "olmo2", "gptneox", "falcon", "falcon-grouped", "falcon-alibi"):
        decoder = load_decoder(Checkpoint.open(save(TINY[family], tmp_path / family)))
        hidden = torch.randn(1, 5, decoder.embed(np.zeros((1, 1), np.int64)).shape[-1])
        for branch in BRANCHES:
            block = decoder.blocks[2].without(branch)
            before = decoder.run(block, hidden)
            moving = 0
            for name, tensor in block.tensors.items():
                last = any(name.startswith(f"{block.family.path(role)}.") for role in ("o", "down"))
                changed = {**block.tensors, name: tensor + torch.rand(tensor.shape) * (not last)}
                moved = not torch.equal(decoder.run(type(block)(**{**vars(block), "tensors": changed}), hidden), before)
                moving += tensor.numel() * moved
            own = block.family.path("down" if branch == "attention" else "o")
            moving += sum(t.numel() for name, t in block.tensors.items() if name.startswith(f"{own}."))
            assert moving == block.parameters, (family, branch)
