"""The fuzzer's own facts, and a few of its inputs in every run; for hours it is a command (fuzz.py)."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import fuzz_trial
import mutating
import onnx
import pytest
from mutating import Draw
from nightly import NIGHTLY
from synthetic import Shape, random_decoder, write_bundle
from synthetic.bundles import sealed

import foldrank
from foldrank.cli import main as command_line
from foldrank.errors import BundleError, SourceError
from foldrank.runtime.decoding import generate, writing
from foldrank.runtime.providers.provider import resolve
from tests.attacks import fuzz


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("fuzz") / "room"
    fuzz.make_light_room(made)
    return made


def test_a_few_inputs_find_nothing(room: Path) -> None:
    log = fuzz.run(room, 600, 7, fuzz.LIGHT, most=10 * len(fuzz.LIGHT))
    assert log.findings == []
    assert log.inputs == 10 * len(fuzz.LIGHT)


@NIGHTLY
def test_a_minute_over_all_verbs_finds_nothing(tmp_path: Path) -> None:
    fuzz.make_room(tmp_path / "room")
    assert fuzz.run(tmp_path / "room", 60, 8).findings == []


def _sleep(_: list[str]) -> int:
    time.sleep(60)
    return 0


@pytest.mark.parametrize(("fault", "what"), [
    (lambda words: 70, "exit code 70"), (lambda words: 4, "exit code 4 and 0 lines"), (_sleep, "took more than 1 s"),
    (lambda words: os.kill(os.getpid(), signal.SIGKILL), "crashed: -9"),
])
def test_what_must_not_be_is_found_and_the_next_input_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[list[str]], int], what: str
) -> None:
    (tmp_path / "dense").mkdir()
    (tmp_path / "dense" / "config.json").write_text('{"a": [1, 2]}')
    monkeypatch.setattr(command_line, "_run", fault)
    monkeypatch.setattr(fuzz, "WAIT_S", 1.0)
    log = fuzz.run(tmp_path, 600, 0, {"config": fuzz.TARGETS["config"]}, most=2)
    assert [one.what[: len(what)] for one in log.findings] == [what] * 2
    assert json.loads(log.text())["findings"][0]["times"] == 2


def _told(change: Callable[[Any], object]) -> Callable[[bytes], bytes]:
    def changed(held: bytes) -> bytes:
        tree = json.loads(held)
        change(tree)
        return json.dumps(tree).encode()

    return changed


def _drawn(change: Callable[[onnx.ModelProto], object]) -> Callable[[bytes], bytes]:
    def changed(held: bytes) -> bytes:
        model = onnx.ModelProto()
        model.ParseFromString(held)
        change(model)
        return bytes(model.SerializeToString())

    return changed


@pytest.mark.parametrize(("file", "change", "verb"), [
    ("plan/plan.json", _told(lambda plan: plan["edits"][1].update(site=7)), "apply"),
    ("plan/plan.json", _told(lambda plan: plan["edits"][1].update(site=["block.00.q"])), "inspect plan"),
    ("dense/genai_config.json", _told(lambda config: config["model"].pop("decoder")), "apply"),
    ("dense/genai_config.json", _told(lambda config: config["model"].update(decoder=None)), "apply"),
    ("dense/model.onnx", _drawn(lambda model: setattr(model.graph.output[1], "name", "")), "apply"),
], ids=["a site that is a number", "a site that is a list", "no decoder", "a null decoder", "an output without a name"])
def test_what_was_found_is_refused(room: Path, file: str, change: Callable[[bytes], bytes], verb: str) -> None:
    assert fuzz_trial.tried(room, file, change, verb) == (4, "")


@pytest.mark.parametrize(("outputs", "says"), [
    ({"logits": "lo.its"}, "model.decoder.outputs"), ({"present_key_names": "present.%d.value"}, "decoder.outputs"),
])
def test_run_refuses_a_config_that_names_what_the_graph_lacks(
    tmp_path: Path, outputs: dict[str, str], says: str
) -> None:
    """Found: onnxruntime-genai's own RuntimeError came through as our bug."""
    bundle = write_bundle(random_decoder(Shape(blocks=2), seed=5), tmp_path / "dense")
    config = json.loads((bundle.path / "genai_config.json").read_text())
    config["model"]["decoder"]["outputs"] = outputs
    (bundle.path / "genai_config.json").write_text(json.dumps(config))
    with pytest.raises(BundleError, match=says):
        foldrank.run(sealed(bundle), "x")


def test_what_onnxruntime_genai_says_while_it_runs_is_an_error_of_the_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> object:
        raise RuntimeError("Invalid output name:\n present.5.value")

    class Library:
        GeneratorParams = staticmethod(lambda _: Mock())
        Generator = staticmethod(fails)

    monkeypatch.setattr(writing, "load_genai", Library)
    decoder = Mock(folder=Path("tiny"))
    decoder.tokenizer().eos_token_ids = [0]
    monkeypatch.setattr(generate.GenaiDecoder, "open", lambda *_, **__: decoder)
    with pytest.raises(SourceError, match=r"tiny: onnxruntime-genai cannot run it: Invalid output name: present\.5"):
        generate.with_genai(Path("tiny"), "x", resolve("cpu"), tokens=2, sampling=generate.Sampling(), context=9,
                            threads=1, ids=[1, 2])


def test_mutations_are_drawn_from_bytes_alone_and_change_what_they_are_given(room: Path) -> None:
    for target in fuzz.LIGHT.values():
        data = (room / target.file).read_bytes()
        made = [target.change(data, Draw(bytes([n, n, n, 1]) * 24)) for n in range(12)]
        assert made == [target.change(data, Draw(bytes([n, n, n, 1]) * 24)) for n in range(12)]
        assert sum(one != data for one in made) > 6
    assert mutating.Draw(b"").below(9) == 0
