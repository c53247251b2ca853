"""add_low_rank: what it is, what it leaves, and that each of its rooms does it beside whatever stands there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from kind_rooms import ANATOMY, Edited, Rooms
from synthetic import Decoder, PlanMaker, Shape, random_decoder, run_onnx, worst
from synthetic.strategies import Written

from foldrank.digests import WeightDigest
from foldrank.edits.add_low_rank import AddLowRank
from foldrank.edits.anatomy import Beside
from foldrank.edits.base import BRANCHES
from foldrank.edits.low_rank import LowRank
from foldrank.edits.quantize_weight import QuantizeWeight
from foldrank.edits.sizes import bytes_by_part
from foldrank.edits.storage import FewBits, Form
from foldrank.errors import PassRefused, PlanMismatch
from foldrank.graph.anatomy import read_anatomy
from foldrank.graph.dataflow.membership import stream
from foldrank.graph.safe.load import load_model
from foldrank.graph.view.branches import join_of
from foldrank.graph.view.decoder import read_decoder
from foldrank.model.checkpoint import Checkpoint
from foldrank.passes.pipeline import transform
from foldrank.passes.write import write_model
from foldrank.planfile.document import PlanDocument
from foldrank.planfile.plan import Plan
from foldrank.plans.models.decoder import load_decoder
from foldrank.runtime.quantizer import quantize
from foldrank.sites import Site

DIGEST = WeightDigest("0" * 64, "0" * 64, "0" * 64)
IDS = np.random.default_rng(4).integers(0, 50, 16)
DOWN = Site.parse("block.02.down")


def pair(site: str, shape: tuple[int, int], rank: int) -> AddLowRank:
    parsed = Site.parse(site)
    return AddLowRank(parsed, shape, rank, ("A", "B"), (DIGEST,) * len(parsed.roles))


def test_the_roles_of_a_site_keep_what_they_have_and_share_a_pair_beside() -> None:
    narrow = LowRank(Site.parse("block.01.q"), (48, 64), 9, ("C", "D"), (DIGEST,)).on(ANATOMY)
    after = pair("block.01.qkv", (48, 128), 30).on(narrow)
    assert [after.block(1).matrices[role].beside for role in ("q", "k", "v", "o")] == [*[Beside(30)] * 3, None]
    assert [after.block(1).matrices[role].rank for role in ("q", "k", "v", "o")] == [9, None, None, None]
    assert list(after.differences(narrow))[:1] == [
        "block.01.q: [48, 64] of rank 9, floats, a pair of rank 30 beside it against [48, 64] of rank 9, floats"]


@pytest.mark.parametrize("rank", [0, 49])
def test_a_pair_has_a_rank_of_one_to_full(rank: int) -> None:
    with pytest.raises(ValueError, match=rf"block\.01\.o: a pair beside \[64, 48\] has a rank of 1 to 48, not {rank}"):
        pair("block.01.o", (64, 48), rank)
    assert pair("block.01.o", (64, 48), 48).arrays() == {"A": (64, 48), "B": (48, 48)}


def test_another_shape_and_a_second_pair_break_the_law() -> None:
    with pytest.raises(ValueError, match=r"block\.01\.o: is \[64, 48\], the edit says \[48, 64\]"):
        pair("block.01.o", (48, 64), 9).on(ANATOMY)
    with pytest.raises(ValueError, match=r"block\.01\.k: a pair of rank 9 stands beside it already"):
        pair("block.01.k", (48, 32), 2).on(pair("block.01.qkv", (48, 128), 9).on(ANATOMY))


def test_it_comes_last_and_once_for_each_role() -> None:
    source = PlanMaker(random_decoder(Shape()), "0" * 64).plan().document.source
    stored = QuantizeWeight(Site.parse("block.01.o"), (64, 48), FewBits(4, 32, True, 0), (DIGEST,))
    beside = pair("block.01.o", (64, 48), 3)
    PlanDocument(source, None, (), {}, {}, (stored, beside))
    with pytest.raises(ValueError, match="quantize_weight comes before add_low_rank"):
        PlanDocument(source, None, (), {}, {}, (beside, stored))
    with pytest.raises(ValueError, match="edited twice"):
        PlanDocument(source, None, (), {}, {}, (beside, beside))


def test_its_bytes_are_floats_beside_few_bits_and_a_shared_basis_counts_once() -> None:
    few = QuantizeWeight(Site.parse("block.01.q"), (48, 64), FewBits(4, 16, True, 0), (DIGEST,)).on(ANATOMY)
    after = pair("block.01.qkv", (48, 128), 5).on(few)
    before, found = bytes_by_part(few, 2), bytes_by_part(after, 2)
    assert found["q k v"] - before["q k v"] == 2 * 5 * (48 + 128)
    assert found["down"] == before["down"]


def test_it_tells_what_it_is() -> None:
    edit = pair("block.01.o", (64, 48), 3)
    assert edit.row() == {"site": "block.01.o", "shape": [64, 48], "rank": 3}
    assert edit.facts(",".join) == {"block.01.o rank beside": 3, "block.01.o factors beside": "A,B"}
    assert AddLowRank.table([edit]).rows == [("block.01.o", 64, 48, 3, "10.9%")]


def test_the_graph_computes_the_sums(decoder: tuple[Decoder, str], edited: Edited) -> None:
    """Of a whole packed weight, of parts of one with pairs of their own, of one alone, and behind a residual's sum."""
    maker = PlanMaker(decoder[0], "0" * 64).beside("block.01.qkv", 9).beside("block.02.q", 4).beside("block.02.v", 3)
    after = read_decoder(edited(maker.beside("block.03.k", 6).beside("block.03.down", 48)))
    found = {f"{number}.{role}": matrix.beside.rank for number, block in read_anatomy(after).by_number.items()
             for role, matrix in block.matrices.items() if matrix.beside is not None}
    assert found == {"1.q": 9, "1.k": 9, "1.v": 9, "2.q": 4, "2.v": 3, "3.k": 6, "3.down": 48}


@pytest.mark.parametrize(("style", "options"), [
    ("genai", {"biased": True}), ("optimum", {"all_biased": True, "form": "gemm"}), ("torch", {"all_biased": True}),
    ("unnamed optimum", {"biased": True, "norms": "both"}), ("unnamed genai", {"packed": False}),
])
def test_what_reads_linears_finds_all_it_found_before(style: str, options: dict[str, object], tmp_path: Path) -> None:
    """Biases, parts, boundaries and where branches end, in the graph as it is written and read again."""
    decoder = random_decoder(Shape(**options), seed=3)
    dense = load_model(Written(decoder, style).write(tmp_path / "dense"))
    maker = PlanMaker(decoder, "0" * 64)
    for block in range(4):
        maker.beside(f"block.{block:02d}.qkv", 5).beside(f"block.{block:02d}.o", 6).beside(f"block.{block:02d}.down", 7)
    (tmp_path / "small").mkdir()
    write_model(transform(dense, maker.plan())[0], tmp_path / "small")
    small = load_model(tmp_path / "small" / "model.onnx")
    assert worst(run_onnx(tmp_path / "small" / "model.onnx", IDS), maker.expected().logits(IDS)) < 1e-5
    one, other = read_decoder(dense), read_decoder(small)
    for before, after in zip(one.blocks, other.blocks, strict=True):
        assert [(li.roles, li.widths, len(li.biases)) for li in after.linears] == [
            (li.roles, li.widths, len(li.biases)) for li in before.linears]
        for branch in BRANCHES:
            ends = [join_of(model.graph, block, branch, stream(model.graph, (v for b in view.blocks for v in b.past)))
                    for model, view, block in ((dense, one, before), (small, other, after))]
            found = [(end.node.outputs[0].name, end.other.name) for end in ends]
            assert found[0] == found[1]
    assert [len(crossing) for crossing in other.boundaries] == [len(crossing) for crossing in one.boundaries]


def test_a_sum_that_is_not_made_is_seen(tmp_path: Path) -> None:
    decoder = random_decoder(Shape(), seed=3)
    maker = PlanMaker(decoder, "0" * 64).beside("block.02.down", 7)
    model, _ = transform(load_model(Written(decoder, "optimum").write(tmp_path)), maker.plan())
    total = next(node for node in model.graph if node.metadata_props.get("foldrank.part") == "beside")
    assert read_anatomy(read_decoder(model)).matrix(DOWN).beside == Beside(7)
    total.outputs[0].replace_all_uses_with(total.inputs[0])
    model.graph.remove(total, safe=True)
    assert read_anatomy(read_decoder(model)).matrix(DOWN).beside is None


def beside(decoder: Decoder, correction: np.ndarray, rank: int, *, few: FewBits | None = None) -> Plan:
    """A plan of the best pair for a correction of down's W in block 2, beside it as it is or in few bits."""
    u, s, v = np.linalg.svd(correction.astype(np.float64), full_matrices=False)
    weight = decoder.blocks[2]["down"]
    digest = (WeightDigest.of(weight),)
    edits = [] if few is None else [QuantizeWeight(DOWN, weight.shape, few, digest)]
    if rank:
        edits.append(AddLowRank(DOWN, weight.shape, rank, ("A", "B"), digest))
    arrays = {"A": (u[:, :rank] * s[:rank]).astype(np.float32), "B": v[:rank].astype(np.float32)} if rank else {}
    document = PlanMaker(decoder, "0" * 64).plan().document
    return Plan(replace(document, edits=tuple(edits)), arrays)


def logits(plan: Plan, decoder: Decoder, folder: Path) -> np.ndarray:
    model, _ = transform(load_model(Written(decoder, "genai").write(folder / "dense")), plan, quantizer=quantize)
    (folder / "small").mkdir()
    write_model(model, folder / "small")
    return run_onnx(folder / "small" / "model.onnx", IDS)


def test_a_full_pair_makes_another_weight_of_one(tmp_path: Path) -> None:
    decoder, other = random_decoder(Shape(), seed=3), random_decoder(Shape(), seed=8)
    weight, wanted = decoder.blocks[2]["down"], other.blocks[2]["down"]
    found = logits(beside(decoder, wanted - weight, 48), decoder, tmp_path)
    blocks = [*decoder.blocks[:2], {**decoder.blocks[2], "down": wanted}, *decoder.blocks[3:]]
    assert worst(found, replace(decoder, blocks=blocks).logits(IDS)) < 1e-5


def test_beside_few_bits_the_error_falls_with_the_rank(tmp_path: Path) -> None:
    decoder, storage = random_decoder(Shape(), seed=3), FewBits(4, 16, True, 0)
    rounded = PlanMaker(decoder, "0" * 64).quantize(storage).blocks[2]["down"]
    lost = decoder.blocks[2]["down"] - rounded
    errors = []
    for rank in (0, 8, 24, 48):
        (tmp_path / str(rank)).mkdir()
        found = logits(beside(decoder, lost, rank, few=storage), decoder, tmp_path / str(rank))
        errors.append(worst(found, decoder.logits(IDS)))
    assert errors[0] > 1.2 * errors[1] > 1.5 * errors[2] > 100 * errors[3]
    assert errors[3] < 1e-5


@pytest.mark.parametrize("form", ["nbits", "qdq"])
def test_a_graph_that_came_in_few_bits_keeps_its_numbers(form: Form, tmp_path: Path) -> None:
    decoder, storage = random_decoder(Shape(biased=True), seed=3), FewBits(4, 16, True, 0, form)
    stored = PlanMaker(decoder, "0" * 64).quantize(storage)
    given, _ = transform(load_model(Written(decoder, "genai").write(tmp_path / "dense")), stored.plan(),
                         quantizer=quantize)
    for node in given.graph:
        node.metadata_props.clear()  # as if another tool had stored it
        node.name = str(node.name).removesuffix("_Q4")
    made = PlanMaker(replace(decoder, blocks=stored.blocks), "0" * 64).beside("block.01.qkv", 5).beside(str(DOWN), 7)
    model, _ = transform(given, made.plan())
    (tmp_path / "small").mkdir()
    write_model(model, tmp_path / "small")
    assert worst(run_onnx(tmp_path / "small" / "model.onnx", IDS), made.expected().logits(IDS)) < 1e-5
    matrix = read_anatomy(read_decoder(model)).matrix(DOWN)
    assert (matrix.few_bits, matrix.beside) == (storage, Beside(7))


def test_another_weight_and_another_shape_are_refused(tmp_path: Path) -> None:
    decoder = random_decoder(Shape(), seed=3)
    model = load_model(Written(decoder, "genai").write(tmp_path))
    plan = beside(random_decoder(Shape(), seed=8), np.ones((80, 48)), 2)
    with pytest.raises(PlanMismatch, match=r"block\.02\.down: the graph holds other weights"):
        transform(model, plan)
    wrong = replace(plan.edits[0], shape=(81, 48))
    with pytest.raises(PassRefused, match=r"block\.02\.down: is \[80, 48\], the edit says \[81, 48\]"):
        transform(model, replace(plan, document=replace(plan.document, edits=(wrong,))))
    assert "Add" not in {node.op_type for node in model.graph}


@pytest.mark.parametrize("stands", ["a weight", "a pair", "few bits"])
def test_planner_and_reference_agree(stands: str, rooms: Rooms, tiny: Checkpoint) -> None:
    block, random = load_decoder(tiny).block(2), np.random.default_rng(0)
    site = Site.parse("block.02.gate_up")
    weights = [block.weight(role).numpy() for role in site.roles]
    shape = weights[0].shape[0], sum(weight.shape[1] for weight in weights)
    digests = tuple(map(WeightDigest.of, weights))
    arrays = {name: random.standard_normal(size).astype(np.float32) * np.float32(0.2) for name, size in (
        ("A", (shape[0], 7)), ("B", (7, shape[1])), ("C", (shape[0], 5)), ("D", (5, shape[1])))}
    edits = {
        "a weight": [], "a pair": [LowRank(site, shape, 7, ("A", "B"), digests)],
        "few bits": [QuantizeWeight(part, (shape[0], weight.shape[1]), FewBits(4, 16, True, 0), (digest,))
                     for part, weight, digest in zip(site.parts, weights, digests, strict=True)],
    }[stands]
    without = rooms(edits, arrays)[1]
    dense, planned, reference = rooms([*edits, AddLowRank(site, shape, 5, ("C", "D"), digests)], arrays)
    torch.testing.assert_close(planned, reference, rtol=0, atol=1e-4)
    assert (dense - reference).abs().max() > 1e-1
    assert (without - reference).abs().max() > 1e-1
