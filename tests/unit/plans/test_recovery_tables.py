"""Recovery trains pairs in the place of head and table of words: slopes against autograd of a whole model of PyTorch's
with products in their places, and the trained numbers in a graph, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from proved import Planned, prove
from torch import Tensor
from torch.func import functional_call

import foldrank
from foldrank.digests import WeightDigest
from foldrank.edits.low_rank import LowRank
from foldrank.edits.low_rank_table import LowRankTable
from foldrank.graph.safe.load import load_model
from foldrank.planfile.document import PlanDocument, Source
from foldrank.planfile.plan import Plan
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.training.adapters import Kind, adapter
from foldrank.plans.training.course import Course
from foldrank.plans.training.gradients import Gradients
from foldrank.plans.training.recovering import suited
from foldrank.plans.training.recovery import Training, recover
from foldrank.plans.training.stored import Stored
from foldrank.plans.training.teacher import Teacher
from foldrank.runtime.quantizer import quantize
from foldrank.sites import Site

MakeModel = Callable[..., Any]
TEXT = np.random.default_rng(8).integers(0, 61, size=(24, 16))
TEXT[0, ::3] = 0
DIGEST = WeightDigest("0" * 64, "0" * 64, "0" * 64)
PLACES = {"both": ("model.embed_tokens.weight", "lm_head.weight"), "embedding": ("model.embed_tokens.weight",),
          "head": ("lm_head.weight",), "down": ("model.layers.1.mlp.down_proj.weight",)}
"""Where a module of PyTorch's holds [out, in]."""


def planned(decoder: Decoder, wanted: tuple[str, ...], rank: int = 9) -> Plan:
    """Pairs near what they stand for, not the best."""
    random, edits, arrays = np.random.default_rng(0), [], {}
    for of in wanted:
        whole = {"embedding": decoder.table, "down": decoder.block(1).weight("down")}.get(of, decoder.head).numpy()
        u, s, v = np.linalg.svd(whole, full_matrices=False)
        names = f"{of}.A", f"{of}.B"
        noise = 0.02 * random.standard_normal((rank, whole.shape[1]))
        arrays |= {names[0]: np.float32(u * s)[:, :rank].copy(), names[1]: np.float32(v[:rank] + noise)}
        edits.append(LowRank(Site(1, ("down",)), whole.shape, rank, names, (DIGEST,)) if of == "down"
                     else LowRankTable(of, whole.shape, rank, names, DIGEST))
    source = Source("tiny", "0" * 64, "x", len(decoder.blocks), {})
    return Plan(PlanDocument(source, None, (), {}, {}, tuple(edits)), arrays)


def gradients_of(decoder: Decoder, plan: Plan, kind: Kind = "factors", **options: Any) -> Gradients:
    stored = Stored.of(decoder, plan, dense=kind != "factors")
    return Gradients(stored, adapter(kind, stored, torch.Generator().manual_seed(0)), Teacher(decoder), **options)


def whole_model(own: Any, plan: Plan, ids: Tensor) -> tuple[float, dict[str, Tensor]]:
    """KL(dense || with products) in float64, and its slopes in every factor."""
    own.model.embed_tokens.padding_idx = None
    own = own.double()
    factors = {name: torch.from_numpy(array).double().requires_grad_() for name, array in plan.arrays.items()}
    weights = {place: (factors[f"{of}.A"] @ factors[f"{of}.B"]).T
               for of in {name.split(".")[0] for name in factors} for place in PLACES[of]}
    dense = own(input_ids=ids, use_cache=False).logits.log_softmax(-1)
    found = functional_call(own, weights, kwargs={"input_ids": ids, "use_cache": False},
                            tie_weights=False).logits.log_softmax(-1)
    loss = (dense.exp() * (dense - found)).sum(-1).mean()
    return loss.item(), dict(zip(factors, torch.autograd.grad(loss, list(factors.values())), strict=True))


@pytest.mark.parametrize(("architecture", "wanted", "graphs"), [
    ("gemma", ("both", "down"), 0), ("gemma", ("head",), 1 << 30), ("qwen2", ("embedding", "head"), 1 << 30)])
def test_slopes_are_those_of_a_whole_model(
    make_model: MakeModel, architecture: str, wanted: tuple[str, ...], graphs: int
) -> None:
    """Gemma ties its tables, scales what the table gives, and pads with token 0, whose row counts too."""
    decoder = Decoder.of(make_model(3, architecture=architecture))
    plan = planned(decoder, wanted)
    assert (decoder.model.get_input_embeddings().padding_idx == 0) == (architecture == "gemma")
    gradients = gradients_of(decoder, plan, graphs=graphs, logits=61 * 5)
    expected, slopes = whole_model(make_model(3, architecture=architecture), plan, torch.from_numpy(TEXT[:3]))
    assert gradients.backward(TEXT[:3]) == pytest.approx(expected, rel=1e-4)
    assert gradients.loss(TEXT[:3]) == pytest.approx(expected, rel=1e-4)
    assert set(gradients.adapted.parameters) == set(slopes)
    for name, slope in slopes.items():
        found = gradients.adapted.parameters[name].grad
        assert found is not None
        torch.testing.assert_close(found.double(), slope, rtol=1e-3, atol=1e-4 * float(slope.abs().max()))
    again = gradients_of(decoder, plan, "lora").adapted
    assert not any(name.startswith(("both", "head", "embedding")) for name in again.parameters), "trains around pairs"


def test_head_and_table_of_words_train_whichever_blocks_do(make_model: MakeModel) -> None:
    decoder = Decoder.of(make_model(3, architecture="qwen2"))
    adapted = gradients_of(decoder, planned(decoder, ("embedding", "head", "down"))).adapted
    course = Course(adapted, 1e-3, 20, lisa=1)
    assert {name for name, parameter in adapted.parameters.items() if parameter.requires_grad} == set(adapted.blocks)
    assert course.step == 0


def test_a_plan_of_one_pair_for_both_is_trained_as_one(make_model: MakeModel) -> None:
    decoder = Decoder.of(make_model(3, architecture="gemma"))
    plan = planned(decoder, ("both",), rank=20)
    assert suited(plan, decoder.family.roles) == "factors"
    made = recover(decoder, plan, TEXT, Training("factors", steps=12, measured=3, batch=4, rate=1e-2))
    predicted = made.plan.document.predicted
    assert predicted["recover.kl_after"] < 0.98 * predicted["recover.kl_before"]
    assert made.plan.edits == plan.edits
    assert all(not np.array_equal(made.plan.arrays[name], plan.arrays[name]) for name in plan.arrays)
    trained, ids = made.plan, TEXT[-3:]
    (loss, _) = whole_model(make_model(3, architecture="gemma"), trained, torch.from_numpy(ids))
    assert loss == pytest.approx(predicted["recover.kl_after"], rel=1e-3)


def test_a_graph_holds_what_was_trained_bit_for_bit_with_blocks_in_few_bits(tiny_models: Path, tmp_path: Path) -> None:
    """OPT's tables are tied; optimum writes them twice, one is left."""
    folder = tiny_models / "opt"
    methods = ["afm:keep=1,tables_keep=0.6,align=4",
               "quantize:bits=8,accuracy=0,rounding=nearest,head_bits=none,embedding_bits=none"]
    plan = foldrank.plan(folder / "checkpoint", methods=methods, calibration_tokens=256, recover="factors",
                         recover_steps=4, recover_tokens=512)
    assert min(point["step"] for point in plan.diagnostics["recovery"][1:]) > 0
    small = prove(folder / "optimum" / "model.onnx", Planned(folder / "checkpoint", plan), tmp_path, quantize)
    held = {value.const_value.tobytes() for value in load_model(small).graph.initializers.values()}
    for array in plan.arrays.values():
        assert {array.tobytes(), np.ascontiguousarray(array.T).tobytes()} & held
