"""low_rank_table: what it is, what it leaves, and that each of its rooms does it; one pair where head and table of
words are tied."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from edited import written
from kind_rooms import ANATOMY, Rooms
from synthetic import PlanMaker, Shape, random_decoder, run_onnx, widened, worst
from synthetic.strategies import Written
from tiny_families import TINY, save

from foldrank.benchmarks.ideal import count_file
from foldrank.digests import WeightDigest
from foldrank.edits.low_rank_table import LowRankTable
from foldrank.edits.quantize_embedding import QuantizeEmbedding
from foldrank.edits.quantize_head import QuantizeHead
from foldrank.edits.storage import FewBits
from foldrank.errors import PassRefused, PlanMismatch
from foldrank.graph.anatomy import anatomy_of
from foldrank.graph.safe.load import load_model
from foldrank.model.checkpoint import Checkpoint
from foldrank.passes.pipeline import transform
from foldrank.plans.models.decoder import load_decoder

DIGEST = WeightDigest("0" * 64, "0" * 64, "0" * 64)
FEW = FewBits(8, 16, True, 0)
IDS = np.random.default_rng(1).integers(0, 50, 16)


def pair(of: str, shape: tuple[int, int] = (48, 50), rank: int = 7, digest: WeightDigest = DIGEST) -> LowRankTable:
    return LowRankTable(of, shape, rank, ("A", "B"), digest)


@pytest.mark.parametrize(("of", "ranks", "tied"), [
    ("head", (7, None), False), ("embedding", (None, 7), False), ("both", (7, 7), True)])
def test_what_it_leaves(of: str, ranks: tuple[int | None, int | None], tied: bool) -> None:
    after = pair(of).on(ANATOMY)
    assert ((after.head.rank, after.embedding_rank), after.tied, after.head.shape) == (ranks, tied, (48, 50))
    assert any("rank" in line for line in after.differences(ANATOMY))
    with pytest.raises(ValueError, match="of rank 7"):
        pair(of).on(after)


def test_what_it_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"the head: rank 25 saves nothing: \(48, 50\) needs 1\.\.24"):
        pair("head", rank=25)
    with pytest.raises(ValueError, match=r"the head is \[48, 50\], floats, not \[48, 51\]"):
        pair("head", (48, 51)).on(ANATOMY)


def test_few_bits_take_no_pair() -> None:
    after = pair("both").on(ANATOMY)
    for edit, said in ((QuantizeHead((48, 50), FEW, DIGEST), r"the head is \[48, 50\] of rank 7"),
                       (QuantizeEmbedding((48, 50), FEW, DIGEST, head=True), "the embedding is a pair of rank 7")):
        with pytest.raises(ValueError, match=said):
            edit.on(after)
    alone = QuantizeEmbedding((48, 50), FEW, DIGEST, head=False).on(pair("head").on(ANATOMY))
    assert (alone.head.rank, alone.embedding) == (7, FEW)


@pytest.fixture(scope="module")
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Qwen2, whose head is its own, or Gemma 3, which ties it and scales what its table gives."""
    family = str(request.param)
    return Checkpoint.open(save(TINY[family], tmp_path_factory.mktemp("tables") / family))


@pytest.mark.parametrize(("tiny", "of"), [
    ("qwen2", "head"), ("qwen2", "embedding"), ("gemma3", "head"), ("gemma3", "both")], indirect=["tiny"])
def test_planner_and_reference_agree(rooms: Rooms, tiny: Checkpoint, of: str) -> None:
    decoder, random = load_decoder(tiny), np.random.default_rng(0)
    table = (decoder.table if of == "embedding" else decoder.head).numpy()
    arrays = {"A": random.standard_normal((len(table), 7)).astype(np.float32) * 0.2,
              "B": random.standard_normal((7, table.shape[1])).astype(np.float32)}
    dense, planned, reference = rooms([pair(of, table.shape, digest=WeightDigest.of(table))], arrays)
    torch.testing.assert_close(planned, reference, rtol=0, atol=1e-4)
    assert (dense - reference).abs().max() > 1e-1


STYLES, OF, DTYPES = ("genai", "optimum", "torch"), ("both", "head", "embedding"), ("float32", "float16", "bfloat16")


@pytest.mark.parametrize(("style", "of", "dtype"), [
    (style, of, DTYPES[(i + j) % 3]) for i, style in enumerate(STYLES) for j, of in enumerate(OF)])
def test_a_graph_reads_the_pair(style: str, of: str, dtype: str, tmp_path: Path) -> None:
    """In its own floats; what it computes is asked of the graph widened, as no CPU has kernels of bfloat16."""
    decoder = random_decoder(Shape(tied=of != "embedding", dtype=dtype), seed=3)
    maker = PlanMaker(decoder, "0" * 64).factor(of, 7)
    path = written(tmp_path, Written(decoder, style), maker)
    tensors = [value.const_value for value in load_model(path).graph.initializers.values()]
    assert {tensor.dtype.numpy() for tensor in tensors if tensor.dtype.is_floating_point()} == {decoder.shape.stored}
    wide = path if dtype == "float32" else widened(path, tmp_path / "wide.onnx")
    expected = maker.expected().logits(IDS)
    for steps in ((16,), (7, 1, 8)):
        assert worst(run_onnx(wide, IDS, steps), expected) < 1e-5
    assert worst(decoder.logits(IDS), expected) > 1e-2
    found = anatomy_of(path)
    assert (found.head.rank, found.embedding_rank, found.tied) == (
        None if of == "embedding" else 7, None if of == "head" else 7, of == "both")
    if style != "torch":  # whose cache has other names before it is exported
        _proves_bytes(of, decoder.embedding, tmp_path / "dense" / "model.onnx", path)


def _proves_bytes(of: str, table: np.ndarray, dense: Path, path: Path) -> None:
    """Of the pair, as they are stored, and as a token reads them."""
    (words, width), size = table.shape, table.itemsize
    whole, made = size * words * width, size * 7 * (words + width)
    before, after = count_file(dense), count_file(path)
    assert before.row_bytes - after.row_bytes == (0 if of == "head" else size * (width - 7))
    a_again = 0 if of == "head" else size * 7 * width
    assert after.weight_bytes - before.weight_bytes == a_again + (0 if of == "embedding" else made - whole)
    kept = [sum(value.const_value.nbytes for value in load_model(file).graph.initializers.values())
            for file in (dense, path)]
    assert kept[1] - kept[0] == made - (0 if of == "head" else whole), "a tied table stays for the embedding alone"


@pytest.mark.parametrize(("of", "tied"), [("head", True), ("head", False), ("embedding", False)])
def test_the_other_table_is_stored_in_few_bits_and_the_pair_is_refused(of: str, tied: bool, tmp_path: Path) -> None:
    decoder = random_decoder(Shape(tied=tied), seed=3)
    few = {"head": of == "embedding", "embedding": of == "head"}
    maker = PlanMaker(decoder, "0" * 64).factor(of, 7).tables(FEW, **few)
    path = written(tmp_path, Written(decoder, "genai"), maker)
    assert worst(run_onnx(path, IDS), maker.expected().logits(IDS)) < 1e-5
    again = PlanMaker(decoder, "0" * 64).factor(of, 7).tables(FEW, **{part: not asked for part, asked in few.items()})
    with pytest.raises(PassRefused, match=f"{of}: is a pair of rank 7, .*; plan with {of}_bits=none"):
        written(tmp_path / "again", Written(decoder, "genai"), again)


def test_another_table_is_refused(tmp_path: Path) -> None:
    decoder = random_decoder(Shape(tied=False), seed=3)
    source = load_model(Written(decoder, "genai").write(tmp_path / "dense"))
    for of, change, said in (
        ("head", {"replaces": DIGEST}, PlanMismatch), ("embedding", {"shape": (48, 49)}, PassRefused),
        ("head", {"of": "both"}, PlanMismatch),  # whose embedding is another table
    ):
        maker = PlanMaker(decoder, "0" * 64).factor(of, 7)
        maker.arrays["embedding.B"] = np.zeros((7, 49), np.float32) if "shape" in change else maker.arrays[f"{of}.B"]
        maker.factored = [replace(maker.factored[0], **change)]
        with pytest.raises(said, match="embedding" if "of" in change else of):
            transform(source, maker.plan())
