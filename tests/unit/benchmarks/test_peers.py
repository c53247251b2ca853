"""Peers decode the tokens of our own loop; what is missing is said; ratios are their time over ours."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from foldrank.benchmarks import peers
from foldrank.benchmarks.paired import Setup
from foldrank.benchmarks.peers import Ours, against, open_peer
from foldrank.benchmarks.schedule import ONE
from foldrank.benchmarks.workload import Profile, Workload
from foldrank.errors import ProviderUnavailable
from foldrank.runtime.decoding.decoder import OrtDecoder
from foldrank.runtime.providers.provider import Provider

SETUP = Setup(Provider("cpu"), threads=1, vocabulary=10, seed=0)
PROFILE = Profile("one", (Workload(4, 1, 4),), pairs=20)
PROMPT = np.array([[5, 17, 300, 41, 7], [900, 2, 33, 33, 1024]])


@pytest.mark.parametrize("peer", ["transformers", "genai-default"])
def test_a_peer_decodes_the_tokens_of_our_loop(dense_5m: Path, specs_5m: Path, peer: str) -> None:
    wanted = OrtDecoder.open(dense_5m, Provider("cpu"), threads=1).generate(PROMPT, 8)
    loop = open_peer(peer, specs_5m if peer == "transformers" else dense_5m, "cpu", 1)
    loop.capacity = 20
    for _ in range(2):  # a second request forgets the first
        loop.prepare(2)
        steps = [loop.first(PROMPT), *(loop.next() for _ in range(7))]
        np.testing.assert_array_equal(np.stack(steps, axis=1), wanted)


def test_genai_is_left_its_own_threads(dense_5m: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundle asks for every core; the peer is the same bundle without that."""
    opened: list[dict[str, Any]] = []

    def model(folder: str) -> None:
        opened.append(json.loads((Path(folder) / "genai_config.json").read_text()))
        assert (Path(folder) / "model.onnx.data").samefile(dense_5m / "model.onnx.data")

    monkeypatch.setattr("foldrank.runtime.decoding.genai.load_genai", lambda: SimpleNamespace(Model=model))
    open_peer("genai-default", dense_5m, "cpu", 1)
    ours = json.loads((dense_5m / "genai_config.json").read_text())
    assert ours["model"]["decoder"]["session_options"].pop("intra_op_num_threads") == 0
    assert opened == [ours]


def test_peers_are_of_the_cpu_and_say_so() -> None:
    with pytest.raises(ProviderUnavailable, match="transformers on cuda"):
        open_peer("transformers", Path("x"), "cuda", 1)


class StandIn:
    """Our engine takes a second a token, a peer two; the `absent` are not there."""

    started: ClassVar[list[str]] = []
    asked: ClassVar[set[tuple[str, str]]] = set()
    absent: ClassVar[set[str]] = {"optimum"}

    def __init__(self, name: str, command: tuple[str, ...] = ()) -> None:
        self.name = name
        self.started.append(name)
        self.mine = " in " in name

    def __enter__(self) -> StandIn:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        if do == "open" and arguments["engine"] in self.absent:
            raise ProviderUnavailable("optimum", "is not installed", "install it")
        slow = 1.0 if self.mine else 2.0
        self.asked.add((self.name, do))
        if do == "open":
            return {"what": None if self.mine else f"{arguments['folder']} as it is"}
        return {"steps_s": [slow] * arguments["count"]} if do == "steps" else {"ttft_s": 3 * slow, "tpot_s": slow}


def ours(folder: Path, checkpoint: Path, gguf: Path | None = None) -> Ours:
    """As much of our side as the comparison looks at."""
    dense: Any = SimpleNamespace(
        path=folder, manifest=SimpleNamespace(source={"path": str(checkpoint)}, dtype="fp32"))
    small: Any = SimpleNamespace(path=folder / "small")
    return Ours(dense, small, "genai", gguf)


def test_ratios_are_their_time_over_ours_and_a_missing_peer_leaves_a_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(peers, "Child", StandIn)
    monkeypatch.setenv("FOLDRANK_OPTIMUM_PYTHON", "/bin/sh")
    monkeypatch.setattr(peers, "_exported", lambda *_: tmp_path / "optimum")
    monkeypatch.setattr(peers, "place_of", lambda source: next(filter(Path.is_dir, [Path(source["path"])]), None))
    StandIn.started.clear()
    found = against(["transformers", "optimum"], ours(tmp_path, tmp_path), SETUP, PROFILE)
    assert found.engine == "genai"
    assert [(one.peer, one.phase, one.ratio) for one in found.entries] == [
        ("transformers", "prefill", 2.0), ("transformers", "decode", 2.0)]
    assert [[len(launch) for launch in one.pair_ratios] for one in found.entries] == [[10, 10], [10, 10]]
    assert StandIn.started[:4] == ["dense in genai", "transformers", "transformers", "dense in genai"]
    assert [(one.against, one.ours_ms, one.theirs_ms) for one in found.entries] == [
        ("dense", 3000.0, 6000.0), ("dense", 1000.0, 2000.0)]
    assert found.unavailable == {"optimum": "optimum: is not installed; install it"}
    gone = against(["transformers"], ours(tmp_path, tmp_path / "gone"), SETUP, PROFILE)
    assert "its checkpoint is not there" in gone.unavailable["transformers"]


def test_only_a_peer_whose_threads_come_to_rest_takes_turns_of_a_token(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(peers, "Child", StandIn)
    monkeypatch.setattr(peers, "_place", lambda *_: (tmp_path, None))
    monkeypatch.setattr(StandIn, "absent", set())
    StandIn.asked.clear()
    setup = replace(SETUP, turns=ONE)
    found = against(["genai-default", "optimum"], ours(tmp_path, tmp_path), setup, PROFILE)
    assert [one.ratio for one in found.entries] == [2.0] * 4
    assert {do for name, do in StandIn.asked if name == "genai-default"} == {"open", "sample"}
    assert {do for name, do in StandIn.asked if name == "optimum"} == {
        "open", "sample", "begin", "steps"}  # sample: warm-ups


def test_llama_cpp_is_held_against_the_compressed_bundle_and_says_what_it_ran(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(peers, "Child", StandIn)
    monkeypatch.setattr(peers, "library", lambda: (tmp_path, "1"))
    StandIn.started.clear()
    found = against(["llama.cpp"], ours(tmp_path, tmp_path, tmp_path / "model.gguf"), SETUP, PROFILE)
    assert set(StandIn.started) == {"compressed in genai", "llama.cpp"}
    assert [(one.against, one.ratio, one.what) for one in found.entries] == [
        ("compressed", 2.0, f"{tmp_path / 'model.gguf'} as it is")] * 2
    gone = against(["llama.cpp"], ours(tmp_path, tmp_path), SETUP, PROFILE)
    assert gone.unavailable == {"llama.cpp": "llama.cpp: no GGUF file to run; --gguf FILE"}
