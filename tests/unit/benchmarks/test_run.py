"""The whole paired run over stand-ins for worker processes: who starts when, what a missing engine leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from foldrank.benchmarks import paired
from foldrank.benchmarks.budget import Budget
from foldrank.benchmarks.paired import NULL, SPEED, Setup, run
from foldrank.benchmarks.workload import Profile, Workload
from foldrank.errors import ProviderUnavailable
from foldrank.runtime.providers.provider import Provider

SETUP = Setup(Provider("cpu"), threads=1, vocabulary=10, seed=0)
WORKLOAD = Workload(4, 1, 4)
PROFILE = Profile("stand-in", (WORKLOAD,), pairs=20, launches=2)


class StandIn:
    """Answers at once; the engine `genai` is not there where `gone` says so."""

    started: list[str] = []  # noqa: RUF012 - one log for all, emptied by the fixture
    gone: tuple[str, ...] = ()
    now_s = 0.0
    """A clock that opening moves by one second and a sample by a hundredth."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.samples = 0
        self.started.append(name)

    def __enter__(self) -> StandIn:
        return self

    def __exit__(self, *_: object) -> None:
        self.started.append(f"{self.name} ends")

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        if do == "open" and arguments["engine"] in self.gone:
            raise ProviderUnavailable(arguments["engine"], "is not installed", "install it")
        self.samples += do == "sample"
        StandIn.now_s += {"open": 1.0, "sample": 0.01}.get(do, 0.0)
        speed = 2.0 if self.name.startswith("compressed") else 1.0
        return {"placement": None, "peak_rss_bytes": 7, "gpu_bytes": 5, "joules_per_token": 0.5 / speed,
                "ttft_s": 4 / speed, "tpot_s": 1 / speed}


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    monkeypatch.setattr(StandIn, "started", [])
    monkeypatch.setattr(StandIn, "gone", ())
    monkeypatch.setattr(paired, "Child", StandIn)
    return StandIn


def test_every_launch_starts_afresh_and_every_second_one_in_the_other_order(stand_ins: type[StandIn]) -> None:
    run(Path("d"), Path("c"), SETUP, Profile("one", (WORKLOAD,), launches=2, engines=("genai",)))
    starts = [name.removesuffix(" in genai") for name in stand_ins.started if not name.endswith("ends")]
    assert starts == ["dense", "compressed", "dense again", "dense again", "compressed", "dense"]
    assert sum(name.endswith("ends") for name in stand_ins.started) == 6


def test_pairs_are_shared_by_launches_and_keep_sides() -> None:
    series, missing = run(Path("d"), Path("c"), SETUP, PROFILE)
    assert [one.engine for one in series] == ["genai", "onnxruntime"]
    assert missing == {}
    for contest, ratio in ((SPEED, 2.0), (NULL, 1.0)):
        launches = series[0].pairs[contest, WORKLOAD]
        assert [len(pairs) for pairs in launches] == [10, 10]
        assert all(dense["tpot_s"] / rival["tpot_s"] == ratio for pairs in launches for dense, rival in pairs)
    assert series[0].peaks == {"dense": [7, 7], "compressed": [7, 7], "dense again": [7, 7]}
    assert series[0].on_card["compressed"] == [5, 5]
    assert {name: found["joules_per_token"] for name, found in series[0].energy.items()} == {
        "dense": 0.5, "compressed": 0.25}


def test_a_missing_engine_leaves_a_reason_and_no_number(
    stand_ins: type[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stand_ins, "gone", ("genai",))
    series, missing = run(Path("d"), Path("c"), SETUP, PROFILE)
    assert [one.engine for one in series] == ["onnxruntime"]
    assert missing == {"genai": "genai: is not installed"}


def test_no_engine_at_all_is_an_error(stand_ins: type[StandIn], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stand_ins, "gone", ("genai", "onnxruntime"))
    with pytest.raises(ProviderUnavailable, match="bench on cpu"):
        run(Path("d"), Path("c"), SETUP, PROFILE)
    assert sum(name.endswith("ends") for name in stand_ins.started) == 6


PROMPTS = Profile("two", (WORKLOAD, Workload(8, 1, 4)), launches=2)
OPENING_S, PROMPT_S = 3 * 1.0, 0.01 * (3 * 5 + 4 * 10)
"""A launch opens three workers; a prompt is read five times to warm up, then twice in each of 20 pairs of two contests,
half of them in a launch."""


@pytest.mark.parametrize(("seconds", "engines", "prompts"), [
    (0.0, 1, 1),
    (2 * OPENING_S + 4 * PROMPT_S - 0.2, 1, 1),
    (2 * OPENING_S + 4 * PROMPT_S + 0.2, 1, 2),
    (4 * OPENING_S + 8 * PROMPT_S - 0.2, 1, 2),
    (4 * OPENING_S + 8 * PROMPT_S + 0.2, 2, 2),
    (None, 2, 2),
])
def test_what_does_not_fit_the_budget_is_left_out_whole_and_named(
    seconds: float | None, engines: int, prompts: int
) -> None:
    budget = Budget(seconds, clock=lambda: StandIn.now_s)
    series, missing = run(Path("d"), Path("c"), SETUP, PROMPTS, budget=budget)
    assert missing == {}
    assert [len({workload for _, workload in one.pairs}) for one in series] == [prompts] * engines
    assert all(len(pairs) == 10 for one in series for launches in one.pairs.values() for pairs in launches)
    assert set(budget.left_out) == {*["prompt 8"][prompts - 1:], *["onnxruntime"][engines - 1:]}
    assert all("`foldrank bench` measures all" in why for why in budget.left_out.values())


def test_time_that_is_left_goes_to_the_next_engine_where_the_first_is_not_there(
    stand_ins: type[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stand_ins, "gone", ("genai",))
    series, _ = run(Path("d"), Path("c"), SETUP, PROMPTS, budget=Budget(0.0, clock=lambda: StandIn.now_s))
    assert [one.engine for one in series] == ["onnxruntime"]
