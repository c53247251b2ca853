"""The model that is matched: what its sites read, once for those that read the same, kept as far as there is room."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from foldrank.plans.models.block import watch_inputs
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.solver import original as module
from foldrank.plans.solver.original import Original


@pytest.fixture
def decoder(make_model: Callable[..., Any]) -> Decoder:
    return Decoder.of(make_model(5))


def test_sites_that_read_the_same_share_one_tensor_and_the_others_do_not(
    decoder: Decoder, ids: np.ndarray
) -> None:
    read = Original.of(decoder, ids, packed="split").inputs(2)
    assert read["q",] is read["k",] is read["v",]
    assert read["gate",] is read["up",]
    assert len({tensor.data_ptr() for tensor in read.values()}) == 3
    assert ("down",) not in read, "its target is what the stream lacks"


def test_what_a_site_reads_is_what_its_linear_is_given(decoder: Decoder, ids: np.ndarray) -> None:
    found = Original.of(decoder, ids, packed="joint")
    seen: dict[str, torch.Tensor] = {}
    with torch.no_grad(), watch_inputs(decoder.blocks[3], seen.__setitem__, ("q", "gate")):
        decoder.run(decoder.blocks[3], found.states[3])
    torch.testing.assert_close(found.inputs(3)["q", "k", "v"], seen["q"].flatten(0, 1), rtol=0, atol=0)
    torch.testing.assert_close(found.inputs(3)["gate", "up"], seen["gate"].flatten(0, 1), rtol=0, atol=0)


def test_blocks_are_kept_as_far_as_there_is_room(
    decoder: Decoder, ids: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Original.of(decoder, ids)
    one = found.inputs(1)
    assert found.inputs(2) is not one
    assert found.inputs(1) is one
    monkeypatch.setattr(module, "KEPT", 0)
    other = found.inputs(3)  # no room for another: those before stay
    assert found.inputs(1) is one
    assert found.inputs(3) is other, "the one asked for last stays too"
    found.inputs(4)
    assert found.inputs(3) is not other
