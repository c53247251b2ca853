"""The byte picture's numbers against counts made by hand from the synthetic bundle's shapes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foldrank import strictjson
from foldrank.digests import DTYPES
from foldrank.reporting.bytes_chart import where_bytes_went
from foldrank.reporting.card import model_card
from foldrank.reporting.evidence import Evidence
from foldrank.reporting.weight_bytes import Share, split

Maker = Callable[..., Path]

RANKS = [48 + 4 * (block % 5) for block in (0, 1, 2, 3, 4, 5, 8, 9, 11)]
"""What the fixture's plan gives each block left, at every role it factors."""


def test_every_part_is_as_counted_by_hand(make_bundle: Maker) -> None:
    found = split(Evidence.read(make_bundle()))
    assert found is not None
    o_pairs = [min(rank, 95) for rank in RANKS[2:]]  # blocks 0 and 1 keep theirs dense
    assert found.weights == (
        Share("q k v", 4 * 12 * 192 * 320, 4 * sum(r * (192 + 320) for r in RANKS)),
        Share("o", 4 * 12 * 192 * 192, 4 * (2 * 192 * 192 + sum(r * (192 + 192) for r in o_pairs))),
        Share("gate up", 4 * 12 * 192 * 1024, 4 * sum(r * (192 + 1024) for r in RANKS)),
        Share("down", 4 * 12 * 512 * 192, 4 * sum(r * (512 + 192) for r in RANKS)),
        Share("embedding and head", 4 * 4096 * 192, 4 * 4096 * 192),
    )
    assert found.cache == Share("KV cache", 2 * 12 * 2 * 32 * 1024 * 4, 2 * 9 * 2 * 32 * 1024 * 4)
    assert found.dense == sum(share.dense for share in found.weights)


def test_narrower_mlps_are_counted_against_the_sources_width(make_bundle: Maker) -> None:
    """Of one width everywhere, which is what config.json says then."""
    config = strictjson.read(make_bundle() / "config.json")
    evidence = Evidence.read(make_bundle({"config.json": {**config, "intermediate_size": 96}}))
    digest = dict.fromkeys(DTYPES, "0" * 64)
    slices = [{"kind": "slice_mlp", "block": block, "shape": [512, 192], "channels": "0-95", "down": None, "bias": None,
               "replaces": [digest] * 3} for block in range(12)]
    found = split(replace(evidence, plan={**evidence.plan, "edits": slices}))
    assert found is not None
    shares = {share.part: share for share in found.weights}
    assert shares["down"] == Share("down", 4 * 12 * 512 * 192, 4 * 12 * 96 * 192)
    assert shares["gate up"] == Share("gate up", 4 * 12 * 192 * 1024, 4 * 12 * 192 * 192)


def test_an_untied_head_is_counted_on_its_own(make_bundle: Maker) -> None:
    config = strictjson.read(make_bundle() / "config.json")
    config["tie_word_embeddings"] = False
    found = split(Evidence.read(make_bundle({"config.json": config})))
    assert found is not None
    assert [share.part for share in found.weights][-2:] == ["embedding", "head"]


@pytest.mark.parametrize(
    "change", [{"config.json": None}, {"config.json": {"model_type": "mixtral", "hidden_size": 8}}]
)
def test_another_kind_of_decoder_is_not_guessed_at(make_bundle: Maker, change: dict[str, Any]) -> None:
    assert split(Evidence.read(make_bundle(change))) is None


def test_without_a_manifest_the_stored_type_is_not_guessed(make_bundle: Maker) -> None:
    assert split(Evidence.read(make_bundle(sealed=False))) is None


def test_few_bits_count_their_scales_and_zero_points_and_a_tied_table_stays(make_bundle: Maker) -> None:
    evidence = Evidence.read(make_bundle())
    assert evidence.plan is not None
    few, digest = {"bits": 4, "block_size": 32, "symmetric": False, "accuracy": 4}, dict.fromkeys(DTYPES, "0" * 64)
    added = [
        *({"kind": "quantize_weight", "site": f"block.{block:02d}.down", "shape": [512, 192], "storage": few,
           "replaces": [digest]} for block in (0, 1, 2, 3, 4, 5, 8, 9, 11)),
        {"kind": "quantize_head", "shape": [192, 4096], "storage": {**few, "symmetric": True}, "replaces": digest},
    ]
    found = split(replace(evidence, plan={**evidence.plan, "edits": [*evidence.plan["edits"], *added]}))
    assert found is not None
    shares = {share.part: share for share in found.weights}
    assert shares["down"].here == round((4 / 8 + (4 + 4 / 8) / 32) * sum(r * (512 + 192) for r in RANKS))
    assert shares["embedding and head"].here == 4096 * 192 * 4 + round((4 / 8 + 4 / 32) * 4096 * 192)
    assert found.dense == sum(share.dense for share in found.weights)


def test_one_table_of_few_bits_is_counted_once(make_bundle: Maker) -> None:
    evidence = Evidence.read(make_bundle())
    few, digest = {"bits": 8, "block_size": 32, "symmetric": True, "accuracy": 4}, dict.fromkeys(DTYPES, "0" * 64)
    both = {"kind": "quantize_embedding", "shape": [192, 4096], "storage": few, "replaces": digest, "head": True}
    found = split(replace(evidence, plan={**evidence.plan, "edits": [*evidence.plan["edits"], both]}))
    assert {share.part: share.here for share in found.weights}["embedding and head"] == round((1 + 4 / 32) * 4096 * 192)


@pytest.mark.parametrize(("of", "kept"), [("both", 0), ("head", 4 * 192 * 4096)])
def test_a_pair_in_the_place_of_a_table_is_counted_once_beside_what_stays(
    make_bundle: Maker, of: str, kept: int
) -> None:
    evidence = Evidence.read(make_bundle())
    pair = {"kind": "low_rank_table", "of": of, "shape": [192, 4096], "rank": 64, "factors": ["a", "b"],
            "replaces": dict.fromkeys(DTYPES, "0" * 64)}
    found = split(replace(evidence, plan={**evidence.plan, "edits": [*evidence.plan["edits"], pair]}))
    assert {s.part: s.here for s in found.weights}["embedding and head"] == kept + 4 * 64 * (192 + 4096)


def test_what_blocks_share_is_stored_once_and_read_by_each(make_bundle: Maker) -> None:
    path = make_bundle()
    evidence = Evidence.read(path)
    assert "a token reads" not in model_card(path)
    shared = [{"kind": "share_weights", "block": block, "of": block - 1, "roles": ["gate", "up", "down"]}
              for block in (1, 3)]
    found = split(replace(evidence, plan={**evidence.plan, "edits": shared}))
    assert found is not None
    shares = {share.part: share for share in found.weights}
    assert shares["gate up"] == Share("gate up", 4 * 12 * 192 * 1024, 4 * 10 * 192 * 1024)
    assert shares["down"] == Share("down", 4 * 12 * 512 * 192, 4 * 10 * 512 * 192)
    assert found.read.here == found.read.dense == found.blocks.dense
    assert found.blocks.here == found.blocks.dense - 4 * 2 * 3 * 192 * 512
    rows = where_bytes_went(replace(evidence, plan={**evidence.plan, "edits": shared}))[1].rows
    told = [[cell.text for cell in row] for row in rows]
    assert ["blocks, as a token reads them", "18.9 MB", "18.9 MB", "100.0 %"] in told


def test_what_turns_the_stream_is_stored_once_and_new(make_bundle: Maker) -> None:
    evidence = Evidence.read(make_bundle())
    every = list(range(12))
    rotated = [{"kind": "rotate_stream", "width": 192, "signs": "0f" * 24, "attention": every, "mlp": every}]
    turned = replace(evidence, plan={**evidence.plan, "edits": rotated})
    found = split(turned)
    assert found is not None
    assert found.weights[-1] == Share("rotation", 0, 4 * 192 * 192)
    assert found.here == found.dense + 4 * 192 * 192
    rows = [[cell.text for cell in row] for row in where_bytes_went(turned)[1].rows]
    assert ["rotation", "0 B", "147 kB", "new"] in rows
