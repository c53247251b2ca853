"""low_rank: what it is, what it leaves, and that each of its rooms does it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kind_rooms import ANATOMY, Edited, Rooms
from synthetic import Decoder, PlanMaker

from foldrank.digests import WeightDigest
from foldrank.edits.low_rank import LowRank
from foldrank.graph.view.decoder import read_decoder
from foldrank.model.checkpoint import Checkpoint
from foldrank.plans.models.decoder import load_decoder
from foldrank.sites import Site

DIGEST = WeightDigest("0" * 64, "0" * 64, "0" * 64)


def test_the_roles_of_a_site_share_a_rank() -> None:
    after = LowRank(Site.parse("block.01.qkv"), (48, 128), 9, ("A", "B"), (DIGEST,) * 3).on(ANATOMY)
    assert [after.block(1).matrices[role].rank for role in ("q", "k", "v", "o")] == [9, 9, 9, None]
    assert after.block(0) == ANATOMY.block(0)


def test_another_shape_or_a_site_that_is_not_there_breaks_the_law() -> None:
    with pytest.raises(ValueError, match=r"block\.01\.o: is \[64, 48\], the edit says \[48, 64\]"):
        LowRank(Site.parse("block.01.o"), (48, 64), 9, ("A", "B"), (DIGEST,)).on(ANATOMY)
    with pytest.raises(ValueError, match="block 7 is not there"):
        LowRank(Site.parse("block.07.o"), (64, 48), 9, ("A", "B"), (DIGEST,)).on(ANATOMY)


def test_it_names_two_arrays_with_their_shapes() -> None:
    assert LowRank(Site.parse("block.01.o"), (64, 48), 9, ("A", "B"), (DIGEST,)).arrays() == {
        "A": (64, 9), "B": (9, 48)}


def test_the_graph_computes_both_products(decoder: tuple[Decoder, str], edited: Edited) -> None:
    maker = PlanMaker(decoder[0], "0" * 64).low_rank("block.01.qkv", 9).low_rank("block.03.down", 5)
    pairs = {pair.sites[0]: pair.rank for block in read_decoder(edited(maker)).blocks for pair in block.pairs}
    assert pairs == {Site.parse("block.01.qkv"): 9, Site.parse("block.03.down"): 5}


def test_planner_and_reference_agree(rooms: Rooms, tiny: Checkpoint) -> None:
    block, random = load_decoder(tiny).block(2), np.random.default_rng(0)
    site = Site.parse("block.02.gate_up")
    weights = [block.weight(role).numpy() for role in site.roles]
    shape = weights[0].shape[0], sum(weight.shape[1] for weight in weights)
    arrays = {"A": random.standard_normal((shape[0], 7)).astype(np.float32) * 0.2,
              "B": random.standard_normal((7, shape[1])).astype(np.float32)}
    pair = LowRank(site, shape, 7, ("A", "B"), tuple(map(WeightDigest.of, weights)))
    dense, planned, reference = rooms([pair], arrays)
    torch.testing.assert_close(planned, reference, rtol=0, atol=1e-4)
    assert (dense - reference).abs().max() > 1e-1
