"""The strip of blocks and the grid of ranks: what left, what was narrowed, what became one."""

from __future__ import annotations

from typing import Any

from foldrank.digests import WeightDigest
from foldrank.edits import Edit
from foldrank.edits.drop_branch import DropBranch
from foldrank.edits.fold_blocks import FoldBlocks
from foldrank.edits.low_rank import LowRank
from foldrank.edits.slice_mlp import Channels, SliceMlp
from foldrank.planfile.document import PlanDocument, Source
from foldrank.reporting.evidence import Evidence
from foldrank.reporting.parts import Block, Rank, RankGrid, Strip, Text
from foldrank.reporting.section_done import done
from foldrank.sites import Site

DIGEST = WeightDigest("0" * 64, "1" * 64, "2" * 64)
FOLD = FoldBlocks(1, (1, 2), {1: 0.0, 2: 1.0}, "bottom")
NO_MLP = DropBranch(0, "mlp")
NARROW = SliceMlp(1, (8, 4), Channels((0, 1, 4, 5, 6, 7)), None, None, (DIGEST,) * 3)


def evidence(*edits: Edit) -> Evidence:
    plan = PlanDocument(Source("tiny", "c" * 64, "LlamaForCausalLM", 4, {}), None, (), {}, {}, edits)
    return Evidence({}, plan={"source": {"blocks": 4}, "steps": [], "edits": _rows(plan)})


def _rows(plan: PlanDocument) -> Any:
    import json

    return json.loads(plan.text())["edits"]


def strip(*edits: Edit) -> tuple[Block, ...]:
    (found,) = (part for part in done(evidence(*edits)).parts if isinstance(part, Strip))
    return found.blocks


def test_what_blocks_lost_stands_beside_their_numbers() -> None:
    assert [(block.source, block.now, block.beside) for block in strip(FOLD, NO_MLP, NARROW)] == [
        (0, 0, "no MLP"), (1, 1, "MLP 75%"), (2, None, ""), (3, 2, "")]
    assert [block.label for block in strip(FOLD)] == ["kept", "merged", "left, folded into 1", "kept"]


def test_a_strip_is_there_where_no_block_left_but_parts_did() -> None:
    said = [part.text for part in done(evidence(NO_MLP)).parts if isinstance(part, Text)]
    assert "All 4 blocks stay." in said
    assert len(strip(NO_MLP)) == 4


def test_a_site_that_left_is_not_called_dense() -> None:
    pair = LowRank(Site(1, ("down",)), (8, 4), 2, ("A", "B"), (DIGEST,))
    (grid,) = (part for part in done(evidence(NO_MLP, pair)).parts if isinstance(part, RankGrid))
    assert dict(grid.rows)["block 0"] == (Rank(gone=True),)
    assert dict(grid.rows)["block 1"][0].rank == 2
    assert dict(grid.rows)["block 2"] == (Rank(),)
