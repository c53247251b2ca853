"""A bundle that is off by one thing passes neither proof nor self-test, whatever its own manifest says."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from mutants import MUTANTS, Change, Files
from tiny_families import SIZES, llama, save

import foldrank
from foldrank.bundle.bundle import Bundle
from foldrank.errors import FoldrankError
from foldrank.graph.safe.load import load_model
from foldrank.model.checkpoint import Checkpoint
from foldrank.planfile.plan import Plan
from foldrank.runtime.decoding.decoder import OrtDecoder
from foldrank.runtime.providers.provider import resolve
from foldrank.verbs import agreement, proving_windows, reference, untouched
from foldrank.verbs.export import export
from foldrank.verbs.reference import Known
from foldrank.verbs.selftest import add_selftest, selftest
from foldrank.verbs.validate import proof_of

OVERRULED = {f"config.json: {key} {value}" for key, value in (("eos_token_id", 7), ("bos_token_id", 9))}
"""What a self-test alone lets pass: generation_config.json says otherwise, every runtime heeds that first, and
checkpoints rightly differ there. The checkpoint is not there to be asked."""

ONE_PERCENT = [name for name in MUTANTS if name.endswith(" 1 %")]
WITHOUT_MATRICES = ["scale of one attention 1 %", "bias of o", "one gain 0.1 %", "RoPE without its last row"]
"""For a graph whose matrices are integers."""


@dataclass
class Room:
    """A sound bundle with a self-test, and what judges copies of it: each window's logits are computed once."""

    sound: Bundle
    checkpoint: Checkpoint
    known: Known
    source: dict[str, str]

    @classmethod
    def of(cls, bundle: Bundle, checkpoint: Checkpoint, dense: Bundle) -> Room:
        source: dict[str, str] = {}

        def kept(model, floats):  # type: ignore[no-untyped-def]
            source.update(untouched.source_digests(model, floats))
            return source

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(reference, "source_digests", kept)
            known = reference.reference_of(bundle, checkpoint, dense)
        logits, asked = dict[bytes, np.ndarray](), known.logits

        def once(ids: np.ndarray) -> np.ndarray:
            if ids.tobytes() not in logits:
                logits[ids.tobytes()] = asked(ids)
            return logits[ids.tobytes()]

        known = replace(known, logits=once)
        return cls(add_selftest(bundle, known, 0), checkpoint, known, source)

    def proved(self, folder: Path) -> bool:
        """As `validate` does it, but for quality and the reading of text."""
        bundle = Bundle.open(folder)
        graph = load_model(bundle.model)
        agreement.refuse_disagreement(bundle, graph)
        agreement.refuse_other_files(bundle, self.checkpoint)
        plan = None if bundle.plan is None else Plan.read(bundle.plan)
        known = replace(self.known, weights=untouched.weights_kept(graph, plan, self.source))
        text = np.random.default_rng(5).integers(40, 120, (4, 128))
        decoder = OrtDecoder.open(folder, resolve("cpu"), threads=1, spinning="in_runs")
        return bool(proof_of(bundle, known, decoder, text, seed=0).passed)

    def tested(self, folder: Path) -> bool:
        return bool(selftest(folder, threads=1)["verdict"] == "pass")

    def mutant(self, change: Change, folder: Path) -> Path:
        files = Files(Path(shutil.copytree(self.sound.path, folder)))
        change(files)
        files.seal()
        return folder


@pytest.fixture(scope="module", autouse=True)
def few_positions() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(proving_windows, "MIN_POSITIONS", 1024)
        yield


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Room]:
    """By precision, each made when it is first asked for."""
    folder, made = tmp_path_factory.mktemp("mutants"), dict[str, Room]()
    tiny = llama(**{**SIZES, "num_hidden_layers": 3}, attention_bias=True, mlp_bias=True)

    def dense(dtype: str) -> Bundle:
        if not (folder / dtype).exists():
            export(folder / "model", folder / dtype, exporter="genai", dtype=dtype, offline=True)
        return Bundle.open(folder / dtype)

    def room(precision: str) -> Room:
        if not (folder / "model").exists():
            save(tiny, folder / "model")
        if precision not in made:
            if precision == "int8":
                plan = foldrank.plan(folder / "model", methods=["quantize:bits=8"], calibration_tokens=128)
                bundle = foldrank.apply(dense("fp32"), plan, folder / "int8")
            else:
                bundle = dense(precision)
            origin = bundle if precision == "fp16" else dense("fp32")
            made[precision] = Room.of(bundle, Checkpoint.open(folder / "model"), origin)
        return made[precision]

    return room


def caught(judge: Callable[[Path], bool], folder: Path) -> bool:
    """Whether a verdict, or an error that says what to do, tells."""
    try:
        return not judge(folder)
    except FoldrankError:
        return True


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_right_bundle_passes(rooms: Callable[[str], Room], precision: str) -> None:
    room = rooms(precision)
    assert room.known.precision == precision
    assert room.proved(room.sound.path)
    assert room.tested(room.sound.path)


@pytest.mark.parametrize(("precision", "name"), [
    *(("fp32", name) for name in MUTANTS), *(("fp16", name) for name in ONE_PERCENT),
    *(("int8", name) for name in WITHOUT_MATRICES)], ids=lambda part: part.replace(" ", "-"))
def test_a_mutant_is_caught(rooms: Callable[[str], Room], precision: str, name: str, tmp_path: Path) -> None:
    room = rooms(precision)
    folder = room.mutant(MUTANTS[name], tmp_path / "mutant")
    assert caught(room.proved, folder)
    assert caught(room.tested, folder) is (name not in OVERRULED)


def test_a_manifest_that_claims_a_coarser_dtype_changes_nothing(rooms: Callable[[str], Room], tmp_path: Path) -> None:
    """Under fp16's limit an attention scale off by 1 % would pass."""
    room = rooms("fp32")
    folder = room.mutant(MUTANTS["scale of one attention 1 %"], tmp_path / "mutant")
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"dtype": "fp32"', '"dtype": "fp16"'))
    assert Bundle.open(folder).manifest.dtype == "fp16"
    assert caught(room.proved, folder)
    assert caught(room.tested, folder)
