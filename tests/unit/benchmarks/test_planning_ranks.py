"""The naive low-rank procedure and the planner judge every candidate alike: only then do their times compare."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_families import llama, random_model

from foldrank.benchmarks.planning_ranks import naive_losses, planned_losses
from foldrank.plans.models.decoder import Decoder


def test_naive_and_planned_losses_agree_and_depend_on_the_candidate() -> None:
    model = random_model(llama(hidden_size=24, num_attention_heads=3, num_key_value_heads=1, head_dim=8,
                               intermediate_size=40, num_hidden_layers=2, vocab_size=61, initializer_range=0.2))
    ids, keeps = np.random.default_rng(0).integers(0, 61, size=(5, 24)), [0.5, 0.9]
    naive, planned = naive_losses(model, ids, keeps), planned_losses(Decoder.of(model), ids, keeps)
    assert planned == pytest.approx(naive, abs=1e-4)
    assert abs(naive[0] - naive[1]) > 1e-3
