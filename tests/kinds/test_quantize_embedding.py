"""quantize_embedding: what it is, what it leaves, and that each of its rooms does it; one table where head and table
of words are tied."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
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
from foldrank.passes.write import write_model
from foldrank.plans.models.decoder import load_decoder
from foldrank.runtime.quantizer import quantize

FEW = FewBits(8, 16, True, 0)
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
    ((40, 50), FEW, "no whole blocks"), ((48, 50), replace(FEW, accuracy=4), "its accuracy is 0")])
def test_what_it_cannot_be(shape: tuple[int, int], storage: FewBits, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        QuantizeEmbedding(shape, storage, DIGEST, head=False)


@pytest.mark.parametrize("bits", [4, 8])
def test_planner_and_reference_agree(rooms: Rooms, tiny: Checkpoint, bits: int) -> None:
    table, few = load_decoder(tiny).table.numpy(), replace(FEW, bits=bits)
    dense, planned, reference = rooms([QuantizeEmbedding(table.shape, few, WeightDigest.of(table), head=False)], {})
    torch.testing.assert_close(planned, reference, rtol=0, atol=1e-4)
    assert (dense - reference).abs().max() > 1e-3


def written(tmp_path: Path, source: Written, maker: PlanMaker) -> Path:
    """The edited graph's file."""
    model, _ = transform(load_model(source.write(tmp_path / "dense")), maker.plan(), quantizer=quantize)
    (tmp_path / "small").mkdir()
    write_model(model, tmp_path / "small")
    return tmp_path / "small" / "model.onnx"


@pytest.mark.parametrize("style", ["genai", "optimum"])
@pytest.mark.parametrize(("tied", "embedding", "head", "bits", "symmetric"), [
    (True, True, True, 8, True), (True, True, True, 4, True), (True, True, False, 8, True),
    (False, True, False, 4, True), (True, False, True, 8, True),
])
def test_a_graph_looks_up_few_bits(
    style: str, tied: bool, embedding: bool, head: bool, bits: int, symmetric: bool, tmp_path: Path
) -> None:
    decoder = random_decoder(Shape(tied=tied), seed=3)
    storage = FewBits(bits, 16, symmetric, 0)  # type: ignore[arg-type]
    maker = PlanMaker(decoder, "0" * 64).tables(storage, embedding=embedding, head=head)
    path = written(tmp_path, Written(decoder, style), maker)
    expected = maker.expected().logits(IDS)
    for steps in ((16,), (7, 1, 8)):
        assert worst(run_onnx(path, IDS, steps), expected) < 1e-4
    found = anatomy_of(path)
    assert found.tied == (embedding and head)
    assert found.embedding == (storage if embedding else None)
    assert (found.head.few_bits is not None) == head


@pytest.mark.parametrize("style", ["genai", "optimum"])
def test_one_table_is_stored_once_and_read_by_rows_and_whole(style: str, tmp_path: Path) -> None:
    decoder = random_decoder(Shape(), seed=3)
    words, width = decoder.embedding.shape
    dense = Written(decoder, style).write(tmp_path / "given")
    maker = PlanMaker(decoder, "0" * 64).tables(FEW, embedding=True, head=True)
    path = written(tmp_path, Written(decoder, style), maker)
    model = load_model(path)
    size = words * width + 4 * words * width // 16
    held = {str(value.name): value.const_value for value in model.graph.initializers.values()}
    numbers = [t for t in held.values() if t is not None and t.dtype == ir.DataType.UINT8]
    assert [t.nbytes for t in numbers] == [words * width]
    assert not any(t is not None and words in tuple(t.shape) and len(t.shape) == 2 and t.nbytes >= 4 * words * width
                   for t in held.values())
    before, after = count_file(dense), count_file(path)
    assert before.weight_bytes - after.weight_bytes == 4 * words * width - size
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
