"""fold_blocks: what it is, what it leaves, and that each of its rooms does it."""

from __future__ import annotations

import pytest
import torch
from kind_rooms import ANATOMY, Edited, Rooms
from pydantic import TypeAdapter
from synthetic import Decoder, PlanMaker

from foldrank.edits.anatomy import BlockAnatomy, Matrix
from foldrank.edits.fold_blocks import FoldBlocks
from foldrank.graph.view.decoder import read_decoder

ADAPTER = TypeAdapter(FoldBlocks)
FOLD = FoldBlocks(2, (1, 2, 3), {1: 0.5, 2: 0.5, 3: 0.0}, "top")


def test_one_block_stays_in_the_place_of_the_lowest() -> None:
    after = FOLD.on(ANATOMY)
    assert after.numbers == (0, 2)
    assert after.block(2).stands_at == 1
    assert after.block(2).matrices == ANATOMY.block(2).matrices
    assert FoldBlocks(1, (1, 2), {1: 0.0, 2: 1.0}).on(ANATOMY).block(1).copies == 2


def test_it_reads_all_writes_one_and_removes_the_others() -> None:
    touch = FOLD.touch
    assert {part.block for part in touch.reads} == {1, 2, 3}
    assert {part.block for part in touch.writes} == {2}
    assert {part.block for part in touch.removes} == {1, 3}


def test_it_tells_of_itself() -> None:
    assert FoldBlocks(4, (4, 5), {4: 0.25, 5: 0.75}, "top").sentence() == (
        "Blocks 4 and 5 were folded into one: projections of 0.250 × block 4 + 0.750 × block 5, "
        "norms of the top block.")


def test_blocks_of_other_shapes_cannot_merge_but_can_leave() -> None:
    other = BlockAnatomy(2, {**ANATOMY.block(2).matrices, "down": Matrix((64, 48))})
    with pytest.raises(ValueError, match="blocks 1 and 2 are of different shapes"):
        FOLD.on(ANATOMY.with_block(other))
    assert FoldBlocks(1, (1, 2), {1: 1.0, 2: 0.0}).on(ANATOMY.with_block(other)).numbers == (0, 1, 3)


def test_the_graph_computes_the_combination(decoder: tuple[Decoder, str], edited: Edited) -> None:
    maker = PlanMaker(decoder[0], "0" * 64).fold((1, 2, 3), {1: 0.5, 2: 0.75, 3: -0.25}, into=2, norms="top")
    assert [block.number for block in read_decoder(edited(maker)).blocks] == [0, 2]


BY_INPUT = {"qkv": {1: 0.25, 2: 0.5, 3: 0.25}, "down": {1: 0.0, 2: 0.0, 3: 1.0}}


def test_the_graph_computes_other_combinations_by_input(decoder: tuple[Decoder, str], edited: Edited) -> None:
    edited(PlanMaker(decoder[0], "0" * 64).fold((1, 2, 3), {1: 1.0, 2: 0.0, 3: 0.0}, by_input=BY_INPUT))


def test_coefficients_by_input_are_told_and_only_then_written() -> None:
    plain, told = FoldBlocks(1, (1, 2, 3), {1: 1.0, 2: 0.0, 3: 0.0}), FoldBlocks(
        1, (1, 2, 3), {1: 1.0, 2: 0.0, 3: 0.0}, "bottom", BY_INPUT)
    assert (told.sources, plain.sources) == ((1, 2, 3), (1,))
    assert (told.is_copy, plain.is_copy) == (False, True)
    assert "by_input" not in {*ADAPTER.dump_python(plain), *plain.row()}
    assert ADAPTER.validate_json(ADAPTER.dump_json(told), strict=True) == told
    assert told.sentence() == (
        "Blocks 1 to 3 were folded into one: projections q, k, v of 0.250 × block 1 + 0.500 × block 2 + 0.250 × "
        "block 3; o of block 1; gate, up of block 1; down of block 3, norms of the bottom block.")
    with pytest.raises(ValueError, match="exactly the blocks"):
        FoldBlocks(1, (1, 2), {1: 1.0, 2: 0.0}, "bottom", {"o": {1: 1.0}})


def test_planner_and_reference_agree_by_input(rooms: Rooms) -> None:
    fold = FoldBlocks(2, (1, 2, 3), {1: 0.5, 2: 0.75, 3: -0.25}, "top", BY_INPUT)
    _, planned, reference = rooms([fold], {})
    torch.testing.assert_close(planned, reference, rtol=0, atol=1e-4)
    _, other, _ = rooms([FoldBlocks(2, (1, 2, 3), {1: 0.5, 2: 0.75, 3: -0.25}, "top")], {})
    assert (planned - other).abs().max() > 1e-1


def test_planner_and_reference_agree(rooms: Rooms) -> None:
    dense, planned, reference = rooms([FoldBlocks(2, (1, 2, 3), {1: 0.5, 2: 0.75, 3: -0.25}, "top")], {})
    torch.testing.assert_close(planned, reference, rtol=0, atol=1e-4)
    assert (dense - reference).abs().max() > 1e-1
