"""quantize_embedding: what it is, what it leaves, and that each of its rooms does it; one table where head and table
of words are tied."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from edited import written
from kind_rooms import ANATOMY, Rooms
from synthetic import PlanMaker, Shape, random_decoder, run_onnx, worst
from synthetic.strategies import Written

from foldrank.benchmarks.ideal import count_file
from foldrank.digests import WeightDigest
from foldrank.edits.quantize_embedding import QuantizeEmbedding
from foldrank.edits.quantize_head import QuantizeHead
from foldrank.edits.storage import FewBits
from foldrank.errors import PassRefused, PlanMismatch
from foldrank.graph.anatomy import anatomy_of
from foldrank.graph.safe.load import load_model
from foldrank.model.checkpoint import Checkpoint
from foldrank.passes.pipeline import transform
from foldrank.plans.models.decoder import load_decoder
from foldrank.runtime.quantizer import quantize

FEW = FewBits(8, 16, True, 0)
QDQ = replace(FEW, form="qdq")
DIGEST = WeightDigest("0" * 64, "0" * 64, "0" * 64)
IDS = np.random.default_rng(1).integers(0, 50, 16)


def test_what_it_leaves() -> None:
    alone = QuantizeEmbedding((48, 50), FEW, DIGEST, head=False).on(ANATOMY)
    assert (alone.embedding, alone.head, alone.tied) == (FEW, ANATOMY.head, False)
    asked = replace(FEW, accuracy=4)
    both = QuantizeEmbedding((48, 50), asked, DIGEST, head=True).on(ANATOMY)
    assert (both.embedding, both.head.few_bits, both.tied) == (FEW, asked, True)
    assert list(both.differences(alone))
    with pytest.raises(ValueError, match=r"not \[48, 51\]"):
        QuantizeEmbedding((48, 51), FEW, DIGEST, head=True).on(ANATOMY)


@pytest.mark.parametrize(("shape", "storage", "said"), [
    ((40, 50), FEW, "no whole blocks"), ((48, 50), replace(FEW, accuracy=4), "its accuracy is 0"),
    ((48, 50), FewBits(4, 16, True, 0, "qdq"), "no rows of 4-bit numbers")])
def test_what_it_cannot_be(shape: tuple[int, int], storage: FewBits, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        QuantizeEmbedding(shape, storage, DIGEST, head=False)


@pytest.mark.parametrize("bits", [4, 8])
def test_planner_and_reference_agree(rooms: Rooms, tiny: Checkpoint, bits: int) -> None:
    table, few = load_decoder(tiny).table.numpy(), replace(FEW, bits=bits)
    dense, planned, reference = rooms([QuantizeEmbedding(table.shape, few, WeightDigest.of(table), head=False)], {})
    torch.testing.assert_close(planned, reference, rtol=0, atol=1e-4)
    assert (dense - reference).abs().max() > 1e-3


@pytest.mark.parametrize("style", ["genai", "optimum"])
@pytest.mark.parametrize(("tied", "embedding", "head", "storage"), [
    (True, True, True, FEW), (True, True, True, FewBits(4, 16, True, 0)), (True, True, False, FEW),
    (False, True, False, FewBits(4, 16, True, 0)), (True, False, True, FEW),
    (True, True, True, QDQ), (True, True, False, QDQ), (False, True, False, QDQ),
    (True, False, True, FewBits(4, 32, True, 0, "qdq")),
], ids=str)
def test_a_graph_looks_up_few_bits(
    style: str, tied: bool, embedding: bool, head: bool, storage: FewBits, tmp_path: Path
) -> None:
    decoder = random_decoder(Shape(tied=tied), seed=3)
    maker = PlanMaker(decoder, "0" * 64).tables(storage, embedding=embedding, head=head)
    path = written(tmp_path, Written(decoder, style), maker)
    expected = maker.expected().logits(IDS)
    for steps in ((16,), (7, 1, 8)):
        assert worst(run_onnx(path, IDS, steps), expected) < 1e-4
    found = anatomy_of(path)
    assert found.tied == (embedding and head)
    assert found.embedding == (storage if embedding else None)
    assert found.head.few_bits == (storage if head else None)


@pytest.mark.parametrize("style", ["genai", "optimum"])
@pytest.mark.parametrize("head", [True, False])
def test_both_forms_read_the_same_zero_points(style: str, head: bool, tmp_path: Path) -> None:
    decoder = random_decoder(Shape(), seed=3)
    found = {}
    for form in ("nbits", "qdq"):
        maker = PlanMaker(decoder, "0" * 64).tables(FewBits(8, 16, False, 0, form), embedding=True, head=head)
        path = written(tmp_path / form, Written(decoder, style), maker)
        after = anatomy_of(path)
        assert (after.embedding.symmetric, after.embedding.form) == (False, form)
        found[form] = run_onnx(path, IDS)
    assert worst(found["qdq"], found["nbits"]) < 1e-6


@pytest.mark.parametrize("style", ["genai", "optimum"])
@pytest.mark.parametrize("few", [FEW, QDQ], ids=str)
def test_one_table_is_stored_once_and_read_by_rows_and_whole(style: str, few: FewBits, tmp_path: Path) -> None:
    decoder = random_decoder(Shape(), seed=3)
    words, width = decoder.embedding.shape
    dense = Written(decoder, style).write(tmp_path / "given")
    maker = PlanMaker(decoder, "0" * 64).tables(few, embedding=True, head=True)
    path = written(tmp_path, Written(decoder, style), maker)
    model = load_model(path)
    size = words * width + 4 * words * width // 16
    held = {str(value.name): value.const_value for value in model.graph.initializers.values()}
    numbers = [t for t in held.values() if t is not None and t.dtype in (ir.DataType.UINT8, ir.DataType.INT8)]
    assert [t.nbytes for t in numbers] == [words * width]
    assert not any(t is not None and words in tuple(t.shape) and len(t.shape) == 2 and t.nbytes >= 4 * words * width
                   for t in held.values())
    before, after = count_file(dense), count_file(path)
    shapes = 8 * (4 + 4 + 3) if few.form == "qdq" else 0  # what rows, scales and the whole are reshaped to
    assert before.weight_bytes - after.weight_bytes == 4 * words * width - size - shapes
    assert before.row_bytes - after.row_bytes == 4 * width - (width + 4 * width // 16)


def test_another_table_is_refused(tmp_path: Path) -> None:
    decoder = random_decoder(Shape(tied=False), seed=3)
    table = np.ascontiguousarray(decoder.embedding.T)
    maker = PlanMaker(decoder, "0" * 64)
    source = Written(decoder, "genai").write(tmp_path / "dense")
    for edit, said in (
        (QuantizeEmbedding(table.shape, FEW, DIGEST, head=False), PlanMismatch),
        (QuantizeEmbedding((table.shape[0], 7), FEW, DIGEST, head=False), PassRefused),
        (QuantizeEmbedding(table.shape, FEW, WeightDigest.of(table), head=True), PlanMismatch),
    ):
        maker.stored = [edit]
        with pytest.raises(said, match=r"embedding|head"):
            transform(load_model(source), maker.plan(), quantizer=quantize)


def test_no_table_is_written_twice_in_a_plan() -> None:
    head = QuantizeHead((48, 50), FEW, DIGEST)
    both = QuantizeEmbedding((48, 50), FEW, DIGEST, head=True)
    assert head.touch.writes & both.touch.writes
    assert both.replaced == {"embedding": DIGEST, "head": DIGEST}
