"""Plans that do not fit the graph: refused by content and shape, with all reasons, and the graph left as it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from refusing import DECODER, graph_of, made, picture, refuses
from synthetic import PlanMaker, Shape, random_decoder, worst

from foldrank.edits.fold_blocks import FoldBlocks
from foldrank.edits.low_rank import LowRank
from foldrank.errors import PassRefused, PlanMismatch
from foldrank.passes.drop_blocks import DropBlocks
from foldrank.passes.fold_blocks import FoldWeights
from foldrank.passes.low_rank import FactorLinears
from foldrank.passes.pipeline import transform
from foldrank.planfile.plan import Plan


def test_weights_of_another_model(tmp_path: Path) -> None:
    model = graph_of(random_decoder(Shape(), seed=2), tmp_path)
    refuses(model, made().fold((1, 2), {1: 0.0, 2: 1.0}).plan(), PlanMismatch, "block.01.q", "tiny")
    refuses(model, made().low_rank("block.03.gate_up", 5).plan(), PlanMismatch, "block.03.gate")
    refuses(model, made().replace("block.00.o").plan(), PlanMismatch, "block.00.o")


def test_one_changed_number_is_found_by_content(tmp_path: Path) -> None:
    blocks = [dict(b) for b in DECODER.blocks]
    blocks[2]["k"] = blocks[2]["k"].copy()
    blocks[2]["k"][3, 4] = np.nextafter(blocks[2]["k"][3, 4], np.float32(9))
    other = replace(DECODER, blocks=blocks)
    assert worst(other.logits(np.arange(9)), DECODER.logits(np.arange(9))) < 1e-6
    refuses(graph_of(other, tmp_path), made().fold((1, 2), {1: 1.0, 2: 0.0}).plan(), PlanMismatch, "block.02.k")


def test_swapped_names_are_found_by_content(tmp_path: Path) -> None:
    """Two blocks whose weights changed places: every name is there, every shape fits."""
    blocks = [DECODER.blocks[i] for i in (0, 2, 1, 3)]
    model = graph_of(replace(DECODER, blocks=blocks), tmp_path)
    refuses(model, made().low_rank("block.01.up", 5).plan(), PlanMismatch, "block.01.up")


def test_another_number_of_blocks(tmp_path: Path) -> None:
    model = graph_of(random_decoder(Shape(blocks=3), seed=1), tmp_path)
    refuses(model, made().plan(), PlanMismatch, "3 blocks", "with 4")


def test_missing_digest(tmp_path: Path) -> None:
    plan = made().fold((1, 2), {1: 0.0, 2: 1.0}).plan()
    source = dataclasses.replace(plan.document.source, weights={})
    plan = Plan(dataclasses.replace(plan.document, source=source), plan.arrays)
    refuses(graph_of(DECODER, tmp_path), plan, PlanMismatch, "no digest")


def test_all_reasons_are_listed(tmp_path: Path) -> None:
    maker = made()
    for site in ("block.00.q", "block.02.o"):
        maker.low_rank(site, 5)
    plan = maker.plan()
    wrong = [replace(e, shape=(e.shape[0] + 1, e.shape[1])) if isinstance(e, LowRank) else e for e in plan.edits]
    plan = Plan(dataclasses.replace(plan.document, edits=tuple(wrong)), plan.arrays)
    refuses(graph_of(DECODER, tmp_path), plan, PassRefused, "block.00.q: weight is (48, 64), plan says (49, 64)",
            "block.02.o: weight is (64, 48)")


BY_KIND: dict[str, tuple[Callable[[PlanMaker], PlanMaker], str]] = {
    "low_rank": (lambda plan: plan.low_rank("block.00.o", 5), "block.00.o: block.00.o.B"),
    "low_rank_table": (lambda plan: plan.factor("both", 5), "head and embedding: both.A"),
    "add_low_rank": (lambda plan: plan.beside("block.02.down", 5), "block.02.down: block.02.down.beside.B"),
    "add_bias": (lambda plan: plan.bias("block.01.o"), "block.01.o: block.01.o.bias"),
    "slice_mlp": (lambda plan: plan.slice(1, tuple(range(9)), down=True), "block.01.mlp: block.01.down"),
    "replace_weight": (lambda plan: plan.replace("block.01.k"), "block.01.k: block.01.k.W"),
}


@pytest.mark.parametrize("kind", BY_KIND)
def test_what_fp16_cannot_hold_is_refused_from_the_first_number_that_would_be_infinite(
    kind: str, tmp_path: Path
) -> None:
    ask, said = BY_KIND[kind]
    for dtype, number in (("float16", 65520), ("float16", 65519), ("bfloat16", 1e38)):
        decoder = random_decoder(Shape(dtype=dtype), seed=1)
        (folder := tmp_path / str(number)).mkdir()
        maker, model = ask(made(decoder)), graph_of(decoder, folder)
        maker.arrays[said.split()[-1]].flat[3] = -number
        if number == 65520:
            refuses(model, maker.plan(), PassRefused, kind, f"{said} does not fit fp16, which ends at 65504; "
                    "export to fp32 or bf16")
            continue
        changed, _ = transform(model, maker.plan())
        tensors = [value.const_value for value in changed.graph.initializers.values() if value.const_value is not None]
        assert all(np.isfinite(tensor.numpy().astype(np.float32)).all() for tensor in tensors)


@pytest.mark.parametrize("leaving", [(0,), (0, 1), (9,)])
def test_drop_refuses_the_first_block_and_unknown_ones(tmp_path: Path, leaving: tuple[int, ...]) -> None:
    model = graph_of(DECODER, tmp_path)
    before = picture(model)
    with pytest.raises(PassRefused):
        DropBlocks(leaving).edit(model)
    assert picture(model) == before


def test_passes_leave_the_graph_unchanged_when_they_refuse(tmp_path: Path) -> None:
    """Asked of the passes themselves: the pipeline's copy would hide a half-made change."""
    other = random_decoder(Shape(), seed=2)
    plan = made().fold((1, 2), {1: 0.5, 2: 0.5}).low_rank("block.00.q", 5).low_rank("block.03.down", 5).plan()
    model = graph_of(other, tmp_path)
    before = picture(model)
    fold = FoldWeights(plan.of(FoldBlocks), plan.document.source.weights, "x")
    for step in (fold, FactorLinears(plan.of(LowRank), plan.arrays, "x")):
        with pytest.raises(PlanMismatch):
            step.edit(model)
        assert picture(model) == before


def test_pair_already_there(tmp_path: Path) -> None:
    plan = made().low_rank("block.01.gate_up", 5).plan()
    model, _ = transform(graph_of(DECODER, tmp_path), plan)
    refuses(model, plan, PassRefused, "block.01.gate_up: is a low-rank pair already (rank 5)")
