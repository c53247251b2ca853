"""share_weights: what it is, what it leaves, and that each of its rooms does it; what is stored once is read by all."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kind_rooms import ANATOMY, Edited, Rooms
from synthetic import ROLES, Decoder, PlanMaker, Shape, random_decoder, run_onnx, worst
from synthetic.strategies import STYLES, Written, law, shapes

from foldrank.digests import WeightDigest
from foldrank.edits.drop_branch import DropBranch
from foldrank.edits.laws import check_edits
from foldrank.edits.low_rank import LowRank
from foldrank.edits.quantize_weight import QuantizeWeight
from foldrank.edits.replace_weight import ReplaceWeight
from foldrank.edits.share_weights import ShareWeights
from foldrank.edits.sizes import bytes_by_part, bytes_read
from foldrank.edits.storage import FewBits
from foldrank.errors import PassRefused, PlanMismatch
from foldrank.graph.anatomy import anatomy_of, read_anatomy
from foldrank.graph.safe.load import load_model
from foldrank.graph.view.decoder import read_decoder
from foldrank.model.checkpoint import Checkpoint
from foldrank.passes.pipeline import transform
from foldrank.passes.write import write_model
from foldrank.planfile.document import PlanDocument
from foldrank.plans.models.decoder import load_decoder
from foldrank.plans.simulate import apply_edits
from foldrank.runtime.quantizer import quantize
from foldrank.sites import Site

DIGEST = WeightDigest("0" * 64, "0" * 64, "0" * 64)
IDS = np.random.default_rng(6).integers(0, 10, 13)
Q = {block: Site(block, ("q",)) for block in range(6)}
FOUR, EIGHT = (FewBits(bits, 16, True, 0) for bits in (4, 8))


def share(block: int, of: int, *roles: str) -> ShareWeights:
    return ShareWeights(block, of, roles or ROLES)


def stored(site: Site, storage: FewBits) -> QuantizeWeight:
    return QuantizeWeight(site, (48, 64), storage, (DIGEST,))


@pytest.mark.parametrize("fields", [
    (1, 1, ("q",)), (-1, 0, ("q",)), (1, 0, ()), (1, 0, ("k", "q")), (1, 0, ("q", "q")), (1, 0, ("qkv",))])
def test_a_block_shares_roles_in_order_with_another(fields: tuple[int, int, tuple[str, ...]]) -> None:
    with pytest.raises(ValueError, match=r"cannot read the weights of block|not some of"):
        ShareWeights(*fields)


def test_two_blocks_read_one_weight_whichever_plan_says_so() -> None:
    after = share(1, 0, "q", "up").on(ANATOMY)
    assert after.owners == {Q[1]: Q[0], Site.parse("block.01.up"): Site.parse("block.00.up")}
    assert list(after.differences(ANATOMY)) == [
        "block.01.q: reads that of block.00.q against that of block.01.q",
        "block.01.up: reads that of block.00.up against that of block.01.up"]
    assert after != ANATOMY
    assert share(0, 1, "q", "up").on(ANATOMY) == after
    chain = share(3, 1, "q").on(share(1, 0, "q").on(ANATOMY))
    assert chain.owners == {Q[1]: Q[0], Q[3]: Q[0]}
    assert share(1, 0, "q").on(share(3, 1, "q").on(ANATOMY)).owners == {Q[1]: Q[0]}


def test_what_is_written_there_afterwards_is_a_weight_of_its_own() -> None:
    shared = share(2, 1).on(share(1, 0).on(ANATOMY))
    new = ReplaceWeight(Q[1], "W", (DIGEST,)).on(shared)
    assert {site: owner for site, owner in new.owners.items() if site.role == "q"} == {Q[2]: Q[0]}
    pair = LowRank(Q[0], (48, 64), 9, ("A", "B"), (DIGEST,)).on(shared)
    assert {site: owner for site, owner in pair.owners.items() if site.role == "q"} == {Q[2]: Q[1]}


def test_in_few_bits_it_stays_one_where_it_is_stored_alike() -> None:
    shared = share(2, 0, "q").on(share(1, 0, "q").on(ANATOMY))
    after = stored(Q[2], EIGHT).on(stored(Q[1], FOUR).on(stored(Q[0], FOUR).on(shared)))
    assert after.owners == {Q[1]: Q[0]}


def test_pairs_few_bits_and_other_shapes_cannot_be_shared() -> None:
    pair = LowRank(Q[0], (48, 64), 9, ("A", "B"), (DIGEST,)).on(ANATOMY)
    for anatomy in (pair, stored(Q[0], FOUR).on(ANATOMY)):
        for edit in (share(1, 0, "q"), share(0, 1, "q")):
            with pytest.raises(ValueError, match="is no whole matrix of floats"):
                edit.on(anatomy)
    narrow = ANATOMY.changed(Q[0], lambda matrix: replace(matrix, shape=(48, 32)))
    with pytest.raises(ValueError, match=r"block\.01\.q: is \[48, 64\] and cannot read block\.00\.q, \[48, 32\]"):
        share(1, 0, "q").on(narrow)
    with pytest.raises(ValueError, match="has no such matrix"):
        share(1, 0).on(DropBranch(0, "mlp").on(ANATOMY))


def test_it_comes_between_weights_and_storage_and_reads_what_is_there() -> None:
    new = ReplaceWeight(Q[0], "W", (DIGEST,))
    check_edits([new, share(1, 0), share(2, 0), stored(Q[1], FOUR)], 4)
    with pytest.raises(ValueError, match="replace_weight comes before share_weights"):
        check_edits([share(1, 0), new], 4)
    with pytest.raises(ValueError, match="share_weights comes before quantize_weight"):
        check_edits([stored(Q[1], FOUR), share(1, 0)], 4)
    with pytest.raises(ValueError, match=r"block\.01\.q edited twice"):
        check_edits([share(1, 0, "q"), share(1, 2, "q", "k")], 4)
    with pytest.raises(ValueError, match="left with an earlier edit"):
        check_edits([DropBranch(0, "mlp"), share(1, 0, "up")], 4)
    with pytest.raises(ValueError, match="block 4 does not exist"):
        check_edits([share(1, 4)], 4)


def test_bytes_are_stored_once_and_read_by_each() -> None:
    after = share(2, 0).on(share(1, 0, "q", "k", "v").on(ANATOMY))
    block, qkv = bytes_by_part(ANATOMY, 2)["q k v"] / 4, 2 * 48 * 128
    assert block == qkv
    assert bytes_by_part(after, 2)["q k v"] == 2 * qkv
    assert bytes_by_part(after, 2)["down"] == 3 * 2 * 80 * 48
    assert bytes_read(after, 2) == bytes_by_part(ANATOMY, 2)
    few = stored(Q[1], FOUR).on(stored(Q[0], FOUR).on(share(1, 0, "q").on(ANATOMY)))
    dense, each = bytes_by_part(ANATOMY, 2)["q k v"], 48 * 64
    assert bytes_by_part(few, 2)["q k v"] == dense - 2 * 2 * each + each * (4 / 8 + 2 / 16)


def test_it_tells_what_it_is() -> None:
    edits = [share(1, 0), share(3, 2, "gate", "up", "down")]
    assert [edit.sentence() for edit in edits] == [
        "Block 1 reads the weights of block 0.", "Block 3 reads the weights of block 2 (gate, up, down)."]
    assert ShareWeights.gist(edits) == (
        "Blocks 1, 3 read weights of blocks 0, 2, which are stored once: fewer bytes to store, as many to read for a "
        "token.")
    assert edits[1].row() == {"block": 3, "of": 2, "roles": ["gate", "up", "down"]}
    assert edits[1].facts(",".join) == {"block.03 gate up down": "of block.02"}
    assert ShareWeights.table(edits).rows[1] == ("3", "2", "gate up down")
    assert edits[0].beside == "as 0"


def test_the_graph_computes_with_another_blocks_weights(decoder: tuple[Decoder, str], edited: Edited) -> None:
    """Also of a weight that the plan wrote before, with pairs beside of each block's own; norms and biases stay."""
    maker = PlanMaker(decoder[0], "0" * 64).replace("block.00.qkv").replace("block.00.down", seed=1)
    maker.share(1, 0).share(2, 3, ("gate", "up")).beside("block.01.qkv", 5).beside("block.00.down", 4)
    model = edited(maker)
    assert read_anatomy(read_decoder(model)).owners == {
        **{Site(1, (role,)): Site(0, (role,)) for role in ROLES},
        **{Site(3, (role,)): Site(2, (role,)) for role in ("gate", "up")}}


@law(6)
@given(st.data())
def test_whoever_wrote_a_graph_it_stores_shared_weights_once(data: st.DataObject) -> None:
    """Every block of a random group reads the first one's; the data file is smaller by just what left."""
    style = data.draw(st.sampled_from(STYLES))
    decoder = random_decoder(replace(data.draw(shapes(style)), dtype="float32"), seed=data.draw(st.integers(0, 9)))
    shape, maker = decoder.shape, PlanMaker(decoder, "0" * 64)
    group, first = data.draw(st.integers(2, shape.blocks)), data.draw(st.booleans())
    if first:
        maker.replace("block.00.o")
    branch = data.draw(st.sampled_from([ROLES, ROLES[:4], ROLES[4:]]))
    readers = [block for block in range(shape.blocks) if block % group]
    for block in readers:
        maker.share(block, block - block % group, branch)
    with tempfile.TemporaryDirectory() as name:
        dense, small = (Path(name) / part for part in ("dense", "small"))
        source = load_model(Written(decoder, style).write(dense))
        for folder, plan in ((Path(name) / "same", None), (small, maker.plan())):
            folder.mkdir()
            write_model(source.clone() if plan is None else transform(source, plan)[0], folder)
        data_bytes = [(Path(name) / part / "model.onnx.data").stat().st_size for part in ("same", "small")]
        left = 4 * len(readers) * sum(int(np.prod(shape.linear(role))) for role in branch if role in shape.roles)
        assert abs(data_bytes[0] - data_bytes[1] - left) <= 64 * len(readers) * len(branch)
        expected = maker.expected().logits(IDS)
        assert worst(run_onnx(small / "model.onnx", IDS), expected) < 1e-5
        assert worst(run_onnx(small / "model.onnx", IDS, (7, 1, 5)), expected) < 1e-5
        assert len(anatomy_of(small / "model.onnx").owners) == len(readers) * len(set(branch) & set(shape.roles))


@pytest.mark.parametrize("style", ["genai", "torch"])
def test_what_is_stored_in_few_bits_is_stored_once_too(style: str, tmp_path: Path) -> None:
    decoder = random_decoder(Shape(), seed=2)
    maker = PlanMaker(decoder, "0" * 64).share(1, 0).share(3, 2).quantize(FewBits(8, 16, True, 0)).beside(
        "block.01.o", 6)
    model, _ = transform(load_model(Written(decoder, style).write(tmp_path / "dense")), maker.plan(),
                         quantizer=quantize)
    (tmp_path / "small").mkdir()
    write_model(model, tmp_path / "small")
    assert worst(run_onnx(tmp_path / "small" / "model.onnx", IDS), maker.expected().logits(IDS)) < 1e-4
    numbers = [name for name in model.graph.initializers if name.endswith("_Q8")]
    assert len(numbers) == 2 * (5 if style == "genai" else 4)


def test_blocks_that_read_one_weight_may_store_it_in_two_ways(tmp_path: Path) -> None:
    decoder = random_decoder(Shape(packed=False), seed=2)
    maker = PlanMaker(decoder, "0" * 64).share(1, 0, ("q",)).quantize(FOUR)
    plan = maker.plan()
    edits = tuple(replace(e, storage=EIGHT) if isinstance(e, QuantizeWeight) and e.site == Q[1] else e
                  for e in plan.edits)
    plan = replace(plan, document=replace(plan.document, edits=edits))
    model, _ = transform(load_model(Written(decoder, "genai").write(tmp_path)), plan, quantizer=quantize)
    assert read_anatomy(read_decoder(model)).owners == {}


def test_a_part_of_a_packed_weight_is_refused(tmp_path: Path) -> None:
    decoder = random_decoder(Shape(packed=True), seed=3)
    model = load_model(Written(decoder, "genai").write(tmp_path))
    with pytest.raises(PassRefused, match=r"block\.01\.k, block\.01\.v: is one weight, of which the plan leaves k, v"):
        transform(model, PlanMaker(decoder, "0" * 64).share(1, 0, ("q",)).plan())
    assert read_anatomy(read_decoder(model)).owners == {}


@pytest.mark.parametrize("block", [0, 1])
def test_other_weights_than_planned_are_refused(block: int, tmp_path: Path) -> None:
    """Of the block that lends and of the one that gives its own up."""
    decoder = random_decoder(Shape(), seed=3)
    plan = PlanMaker(decoder, "0" * 64).share(1, 0).plan()
    decoder.blocks[block]["o"] = decoder.blocks[block]["o"] * 2
    model = load_model(Written(decoder, "genai").write(tmp_path))
    with pytest.raises(PlanMismatch, match=rf"block\.0{block}\.o: the graph holds other weights"):
        transform(model, plan)
    source = replace(plan.document.source, weights={})
    with pytest.raises(PlanMismatch, match="holds no digest of it"):
        transform(model, replace(plan, document=replace(plan.document, source=source)))


def test_a_plan_with_it_is_read_as_it_was_written() -> None:
    document = PlanMaker(random_decoder(Shape()), "0" * 64).share(2, 1).plan().document
    assert isinstance(document, PlanDocument)
    assert '"kind": "share_weights"' in document.text()


@pytest.mark.parametrize("few", [False, True])
def test_planner_and_reference_agree(few: bool, rooms: Rooms, tiny: Checkpoint) -> None:
    decoder = load_decoder(tiny)
    weight = decoder.block(2).weight("down").numpy()
    new = np.random.default_rng(0).standard_normal(weight.shape).astype(np.float32) * 0.2
    edits = [ReplaceWeight(Site.parse("block.02.down"), "W", (WeightDigest.of(weight),)), share(3, 2), share(5, 4, "q")]
    if few:
        edits += [QuantizeWeight(Site(block, (role,)), tuple(decoder.block(block).weight(role).shape), storage,
                                 (WeightDigest.of(decoder.block(block).weight(role).numpy()),))
                  for block, role, storage in ((2, "q", FOUR), (3, "q", FOUR), (4, "q", FOUR), (5, "q", EIGHT))]
    dense, planned, reference = rooms(edits, {"W": new})
    torch.testing.assert_close(planned, reference, rtol=0, atol=1e-4)
    assert (dense - reference).abs().max() > 1e-1
    after = apply_edits(edits, decoder, {"W": new})
    block = sum(decoder.block(3).weight(role).numel() for role in ROLES)
    again = block + (0 if few else decoder.block(5).weight("q").numel())
    assert after.stored_parameters == decoder.site_parameters - again
