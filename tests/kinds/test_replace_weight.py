"""replace_weight: what it is, what it leaves, and that each of its rooms does it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kind_rooms import ANATOMY, Edited, Rooms
from synthetic import Decoder, PlanMaker

from foldrank.digests import WeightDigest
from foldrank.edits.laws import check_edits
from foldrank.edits.low_rank import LowRank
from foldrank.edits.replace_weight import ReplaceWeight
from foldrank.model.checkpoint import Checkpoint
from foldrank.plans.models.decoder import load_decoder
from foldrank.sites import Site

DIGEST = WeightDigest("0" * 64, "0" * 64, "0" * 64)


def test_shapes_stay() -> None:
    assert ReplaceWeight(Site.parse("block.01.qkv"), "W", (DIGEST,) * 3).on(ANATOMY) == ANATOMY


def test_a_site_is_written_once() -> None:
    new = ReplaceWeight(Site.parse("block.01.q"), "W", (DIGEST,))
    pair = LowRank(Site.parse("block.01.qkv"), (48, 128), 9, ("A", "B"), (DIGEST,) * 3)
    with pytest.raises(ValueError, match=r"block\.01\.qkv: block\.01\.q edited twice"):
        check_edits([new, pair], 4)


def test_the_graph_computes_with_it(decoder: tuple[Decoder, str], edited: Edited) -> None:
    edited(PlanMaker(decoder[0], "0" * 64).replace("block.01.k").replace("block.02.gate_up", seed=1))


def test_planner_and_reference_agree(rooms: Rooms, tiny: Checkpoint) -> None:
    weight = load_decoder(tiny).block(2).weight("o").numpy()
    new = np.random.default_rng(0).standard_normal(weight.shape).astype(np.float32) * 0.2
    edit = ReplaceWeight(Site.parse("block.02.o"), "W", (WeightDigest.of(weight),))
    dense, planned, reference = rooms([edit], {"W": new})
    torch.testing.assert_close(planned, reference, rtol=0, atol=1e-4)
    assert (dense - reference).abs().max() > 1e-1
