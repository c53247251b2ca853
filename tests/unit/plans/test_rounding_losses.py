"""What storing sites in few bits is expected to cost, against models that are rounded and measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from foldrank.edits.storage import FewBits
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.models.rounding import rounded
from foldrank.plans.solver.meter import Meter
from foldrank.plans.solver.moments import fisher_moments
from foldrank.plans.solver.rounding import RELIEF, corrected, rounding_losses

STORAGES = [FewBits(4, 16, True, 0), FewBits(8, 16, True, 0)]


def test_rounding_is_told_within_a_factor_and_corrected_to_what_is_measured(
    make_model: Callable[..., Any]
) -> None:
    ids = np.random.default_rng(7).integers(0, 61, size=(16, 24))
    decoder = Decoder.of(make_model(3, spread=0.1))
    meter = Meter.of(decoder, ids)
    moments = {block.number: held for block, held in fisher_moments(decoder, ids, 0)}
    told = {block.number: rounding_losses(block, moments[block.number], ids.size, STORAGES)
            for block in decoder.blocks}
    inputs = meter.inputs(decoder.blocks)
    measured = []
    for position, block in enumerate(decoder.blocks):
        few = block.with_weights({role: rounded(block.weight(role), STORAGES[0]) for role in block.roles})
        measured.append(meter.loss(inputs[position], (few, *decoder.blocks[position + 1 :])))
        nearest = sum(nats[4] for nats in told[block.number].values()) / RELIEF[4]
        assert nearest / 6 < measured[-1] < 6 * nearest
        assert all(100 * nats[8] < nats[4] for nats in told[block.number].values()), "16 times as fine"
    right = corrected(told, decoder.blocks, STORAGES[0], meter, inputs)
    for block, nats in zip(decoder.blocks, measured, strict=True):
        assert sum(losses[4] for losses in right[block.number].values()) == pytest.approx(RELIEF[4] * nats, rel=1e-4)
    ends = corrected(told, decoder.blocks, STORAGES[0], meter, inputs, spots=2)
    factors = [ends[n][("o",)][4] / told[n][("o",)][4] for n in (0, 1, 2)]
    assert factors[1] == pytest.approx((factors[0] + factors[2]) / 2)
