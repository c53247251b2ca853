"""The worker's side: what it times, how it answers, where its threads run."""

from __future__ import annotations

import io
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from foldrank.benchmarks.worker import Worker, measure, memory, pin, serve, threads_now, whole_cores_first
from foldrank.benchmarks.workload import Workload
from foldrank.errors import ProviderUnavailable, SourceError
from foldrank.runtime.decoding.decoder import Tokens


class SleepingDecoder:
    """Takes known times: 5 ms to prepare, 20 ms for a prompt, 10 ms for a token."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def prepare(self, rows: int) -> None:
        self.calls.append(f"prepare {rows}")
        time.sleep(0.005)

    def first(self, prompt_BT: Tokens) -> Tokens:
        self.calls.append(f"first {prompt_BT.shape}")
        time.sleep(0.020)
        return np.zeros(len(prompt_BT), np.int64)

    def next(self) -> Tokens:
        self.calls.append("next")
        time.sleep(0.010)
        return np.zeros(1, np.int64)


def test_times_the_prompt_and_each_later_token_apart() -> None:
    decoder = SleepingDecoder()
    found = measure(decoder, Workload(8, 2, 5), 10, 0)
    assert decoder.calls == ["prepare 2", "first (2, 8)", *["next"] * 4]
    assert 0.005 <= found["prepare_s"] < 0.02
    assert 0.020 <= found["ttft_s"] < 0.04
    assert 0.010 <= found["tpot_s"] < 0.02


def test_token_by_token_it_times_the_same() -> None:
    worker = Worker()
    worker._decoder = SleepingDecoder()
    begun = worker.begin(prompt=8, batch=2, tokens=5, vocabulary=10, seed=0)
    steps = [*worker.steps(count=3)["steps_s"], *worker.steps(count=1)["steps_s"]]
    assert worker._decoder.calls == ["prepare 2", "first (2, 8)", *["next"] * 4]
    assert 0.020 <= begun["ttft_s"] < 0.04
    assert all(0.010 <= step < 0.02 for step in steps)


class RefusingWorker(Worker):
    """Cannot open anything."""

    def open(self, **arguments: object) -> dict[str, object]:
        raise (ProviderUnavailable if arguments["gone"] else SourceError)("cuda", "has no device", "buy one")


@pytest.mark.parametrize("gone", [True, False])
def test_an_error_of_ours_is_an_answer_and_the_worker_goes_on(gone: bool) -> None:
    commands = [{"do": "open", "gone": gone}, {"do": "memory"}]
    answers = io.StringIO()
    serve(io.StringIO("".join(json.dumps(command) + "\n" for command in commands)), answers, RefusingWorker())
    first, second = map(json.loads, answers.getvalue().splitlines())
    assert first == {"error": {"where": "cuda", "what": "has no device", "remedy": "buy one"}, "unavailable": gone}
    assert second["peak_rss_bytes"] > 1 << 20


def test_any_other_error_ends_the_worker() -> None:
    with pytest.raises(ValueError, match="sample before open"):
        serve(io.StringIO('{"do": "sample", "prompt": 1, "batch": 1, "tokens": 2, "vocabulary": 3, "seed": 0}\n'),
              io.StringIO(), Worker())


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")
def test_peak_memory_follows_an_allocation() -> None:
    before = memory("VmHWM")
    block = np.ones(64 << 20, np.uint8)
    after = memory("VmHWM")
    assert before is not None
    assert after is not None
    assert after >= (memory("VmRSS") or 0) >= block.nbytes
    assert after >= before


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs sched_setaffinity")
def test_pins_the_main_thread_to_one_core_and_leaves_an_unexpected_pool_alone() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        assert pin(set(), 1)
        assert len(os.sched_getaffinity(0)) == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert not pin(set(range(10_000, 10_200)), 2)
    assert not pin(set(), 2)
    assert os.sched_getaffinity(0) == allowed
    assert os.getpid() in threads_now()


def test_hyper_threads_come_after_whole_cores(tmp_path: Path) -> None:
    for cpu, siblings in enumerate(["0-1", "0-1", "2-3", "2-3"]):
        (tmp_path / f"cpu{cpu}" / "topology").mkdir(parents=True)
        (tmp_path / f"cpu{cpu}" / "topology" / "thread_siblings_list").write_text(siblings)
    assert whole_cores_first({0, 1, 2, 3}, tmp_path) == [0, 2, 1, 3]
    assert whole_cores_first({1, 3}, tmp_path) == [1, 3]
    assert whole_cores_first({5, 4}, tmp_path / "nothing") == [4, 5]
