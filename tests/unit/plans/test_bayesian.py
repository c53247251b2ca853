"""The search for ratios: on a known objective, from what it evaluated before, and where optuna is missing."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from foldrank.errors import ProviderUnavailable
from foldrank.plans.low_rank.bayesian import search
from foldrank.plans.method import Task
from foldrank.plans.methods.dipsvd import Settings, run
from foldrank.plans.models.decoder import Decoder
from foldrank.plans.request import parse


def test_without_optuna_it_is_refused_where_the_method_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ProviderUnavailable, match=r"optuna.*not installed.*foldrank\[search\]"):
        parse("dipsvd:keep=0.6,ratios=bayesian")
    assert parse("dipsvd:keep=0.6").values["ratios"] == "closed-form"


def test_without_scipy_auto_is_refused_where_the_method_is_read() -> None:
    """In a process of its own: modules that are loaded already need no scipy."""
    program = """if True:
        import sys
        sys.modules["scipy"] = None
        from foldrank.errors import ProviderUnavailable
        from foldrank.plans.request import parse
        try:
            parse("auto:keep=0.8")
        except ProviderUnavailable as error:
            print(error)
    """
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert re.match(r"method auto: scipy.* is not installed; .*foldrank\[torch\]", told)


def test_search_starts_uniform_and_finds_what_is_better() -> None:
    pytest.importorskip("optuna")
    asked: list[tuple[float, ...]] = []

    def evaluate(proposed: Sequence[float]) -> float:
        asked.append(tuple(proposed))
        return (proposed[0] - 0.9) ** 2 + (proposed[1] - 0.3) ** 2

    found = search(evaluate, 2, 0.6, trials=20, seed=0, known={})
    assert asked[0] == (0.6, 0.6)
    assert all(0.25 <= ratio <= 1 for proposed in asked for ratio in proposed)
    assert found.mean() == pytest.approx(0.6)
    assert found[0] > found[1] + 0.3
    before = len(asked)
    known = {proposed: (proposed[0] - 0.9) ** 2 + (proposed[1] - 0.3) ** 2 for proposed in asked[:15]}
    np.testing.assert_array_equal(search(evaluate, 2, 0.6, trials=20, seed=0, known=known), found)
    assert len(asked) == before + 5


@pytest.mark.parametrize("objective", ["perplexity", "cosine"])
def test_ratios_are_as_good_as_uniform_ones_by_their_objective_or_better(
    make_model: Callable[..., Any], ids: np.ndarray, objective: Any
) -> None:
    pytest.importorskip("optuna")
    from foldrank.plans.depth.similarity import mean_cosine
    from foldrank.plans.models.losses import mean_loss

    decoder = Decoder.of(make_model(3))
    task, values = Task(decoder, ids, 0, source=decoder), []
    for ratios in ("bayesian", "uniform"):
        result = run(task, Settings(keep=0.5, align=1, ratios=ratios, objective=objective, evaluations=4))
        hidden = result.decoder.forward(ids)
        loss = mean_loss(decoder, hidden, ids)
        alike = mean_cosine(decoder.norm(decoder.forward(ids)), decoder.norm(hidden))
        values.append(loss if objective == "perplexity" else -alike)
        assert result.kept <= 0.5
    assert values[0] <= values[1] + 1e-6
