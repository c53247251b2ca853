"""A bundle whose tokenizer opens every text with a token, in validate, run and selftest; and tokens without a row."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bos import with_bos

from foldrank.bundle.bundle import Bundle
from foldrank.cli import main
from foldrank.errors import BundleError, SourceError
from foldrank.plans.texts import load_text
from foldrank.runtime.decoding.decoder import OrtDecoder
from foldrank.runtime.proof.selftest import FILE, Said, SelfTest
from foldrank.runtime.providers.provider import resolve
from foldrank.verbs.reference import Known
from foldrank.verbs.run import run
from foldrank.verbs.selftest import add_selftest, selftest
from foldrank.verbs.validate import validate

BOS, ROWS, BEYOND = 4095, 4096, "<|extra|>"
METHOD, WORDS = ("--method", "slm:keep=0.75"), ("--calibration", "words.txt")
RECOVERING = (*METHOD, *WORDS, "--recover", "lora")


@pytest.fixture(scope="module")
def checkpoint(specs_5m: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model; its tokenizer writes a BOS, and knows a token that the model has no row for."""
    folder = with_bos(specs_5m, tmp_path_factory.mktemp("bos") / "checkpoint")
    held = json.loads((folder / "tokenizer.json").read_text())
    held["added_tokens"].append({**held["added_tokens"][0], "id": ROWS, "content": BEYOND})
    (folder / "tokenizer.json").write_text(json.dumps(held))
    return folder


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, dense_5m: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Its dense bundle, without another export: the tokenizer alone differs from that of the bundled model."""
    copy = shutil.copytree(dense_5m, tmp_path_factory.mktemp("bos") / "dense")
    names = ("tokenizer.json", "tokenizer_config.json")
    return Bundle.open(copy).with_files({name: (checkpoint / name).read_bytes() for name in names})


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "words.txt").write_text(load_text(None, "validation")[0][:4500])
    (tmp_path / "beyond.txt").write_text(f"Words and {BEYOND} among them. " * 400)
    (tmp_path / "short.txt").write_text("Only a few words.")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def naive_perplexity(checkpoint: Path, text: str, front: list[int], window: int, cut: int) -> float:
    """Windows as a loop cuts them, first to `window` and then to `cut` tokens, and transformers' own loss."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    ids, size, part = tokenizer(text, add_special_tokens=False)["input_ids"], window - len(front), cut - len(front)
    windows = [ids[at : at + size] for at in range(0, len(ids) - size + 1, size)]
    parts = [[*front, *one[at : at + part]] for one in windows for at in range(0, size - part + 1, part)]
    with torch.no_grad():
        losses = [float(model(input_ids=row, labels=row).loss) for row in map(torch.tensor, ([p] for p in parts))]
    return float(np.exp(np.mean(losses)))


def test_validate_reads_windows_that_open_with_it_and_never_predicts_it(
    bundle: Bundle, checkpoint: Path, texts: Path
) -> None:
    found = validate(bundle, reference=bundle, text=texts / "words.txt", proof=False, threads=1)
    quality = found["quality"]
    assert found["text"]["bos"] == BOS
    assert quality["windows"] >= 2
    assert quality["tokens"] == quality["windows"] * (quality["window"] - 1)
    wanted = naive_perplexity(checkpoint, (texts / "words.txt").read_text(), [BOS], 512, quality["window"])
    assert abs(quality["dense_perplexity"] / wanted - 1) < 2e-4  # float32 on both sides; one token off is above 1e-3


def test_run_encodes_a_prompt_as_the_tokenizer_would(bundle: Bundle) -> None:
    import transformers

    prompt = "We propose"
    ids = transformers.AutoTokenizer.from_pretrained(bundle.path)(prompt, add_special_tokens=False)["input_ids"]
    decoder = OrtDecoder.open(bundle.path, resolve("cpu"))
    for bos, front in (("auto", [BOS]), ("always", [BOS]), ("never", [])):
        wanted = decoder.generate(np.array([[*front, *ids]]), 6)[0].tolist()
        one = run(bundle, prompt, max_new_tokens=6, bos=bos)
        [row] = run(bundle, [prompt], max_new_tokens=6, bos=bos)["rows"]
        assert (one["engine"], one["prompt_tokens"], one["tokens"]) == ("onnxruntime-genai", len(front + ids), wanted)
        assert (row["prompt_tokens"], row["tokens"]) == (len(front + ids), wanted)


def known() -> Known:
    logits = np.random.default_rng(0).normal(size=(1, 1, ROWS))
    return Known(lambda ids: np.broadcast_to(logits, (*ids.shape, ROWS)), "chance", "fp32")


def test_a_self_test_opens_with_it_and_asks_for_no_token_without_a_row(bundle: Bundle, tmp_path: Path) -> None:
    small = Bundle.open(shutil.copytree(bundle.path, tmp_path / "copy"))
    made = SelfTest.read(add_selftest(small, known(), 0).path / FILE).short
    assert (made.ids[:, 0] == BOS).all()
    assert BOS not in made.ids[:2, 1:]
    beyond = SelfTest(Said.of(np.full((1, 4), ROWS), known().logits), "chance")
    small = Bundle.open(small.path).with_files({FILE: beyond.bytes()})
    with pytest.raises(BundleError, match="asks for the token 4096, the model's embedding table has 4,096 rows"):
        selftest(small)


def test_a_bos_without_a_row_is_told_too(bundle: Bundle, tmp_path: Path) -> None:
    copy = Bundle.open(shutil.copytree(bundle.path, tmp_path / "copy"))
    told = (copy.path / "tokenizer.json").read_text()
    held = json.loads(told)
    held["post_processor"]["special_tokens"]["<|bos|>"]["ids"] = [ROWS]
    copy = copy.with_files({"tokenizer.json": json.dumps(held).encode()})
    with pytest.raises(SourceError, match="has the id 4096, the model's embedding table has 4,096 rows"):
        add_selftest(copy, known(), 0)


SAYS = ("token '<|extra|>' has the id 4096", "4,096 rows", "take the tokenizer that the model was trained with")


def told(arguments: list[Any], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main._run([str(argument) for argument in arguments])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return code, lines[0]


@pytest.mark.parametrize("arguments", [
    ("validate", "{bundle}", "--reference", "{bundle}", "--text", "beyond.txt"),
    ("plan", "{checkpoint}", "-o", "out", *METHOD, "--calibration", "beyond.txt"),
    ("plan", "{checkpoint}", "-o", "out", *RECOVERING, "--recover-text", "beyond.txt"),
    ("compress", "{checkpoint}", "-o", "out", *METHOD, "--calibration", "beyond.txt"),
    ("compress", "{checkpoint}", "-o", "out", *RECOVERING, "--recover-text", "beyond.txt"),
    ("compress", "{checkpoint}", "-o", "out", *METHOD, *WORDS, "--text", "beyond.txt"),
])
def test_a_token_without_a_row_is_told_before_the_long_work(
    arguments: tuple[str, ...], bundle: Bundle, checkpoint: Path, texts: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    forbid_long_work(monkeypatch)
    code, line = told([a.format(bundle=bundle.path, checkpoint=checkpoint) for a in arguments], capsys)
    assert code == 3
    assert all(word in line for word in ("beyond.txt: ", *SAYS))
    assert not (texts / "out").exists()


@pytest.mark.parametrize("prompts", [["--prompt", f"a {BEYOND}"], ["--prompt", "a", "--prompt", f"{BEYOND} b"]])
def test_a_prompt_with_such_a_token_is_told(
    prompts: list[str], bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = told(["run", bundle.path, *prompts], capsys)
    assert code == 3
    assert all(word in line for word in ("the prompt: ", *SAYS))


def test_without_transformers_the_library_encodes_and_such_a_token_is_told_all_the_same(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foldrank.verbs.run.missing", list)
    monkeypatch.setattr("foldrank.verbs.run.load_tokenizer", lambda _: pytest.fail("it is not there"))
    assert run(bundle, "We propose", max_new_tokens=2)["prompt_tokens"] > 1
    with pytest.raises(SourceError, match=r"the prompt: token .* has the id 4096"):
        run(bundle, f"a {BEYOND}", max_new_tokens=2)


@pytest.mark.parametrize(("arguments", "says"), [
    (("plan", "{checkpoint}", "-o", "out", *METHOD, "--calibration", "short.txt"),
     "short.txt: has 8 tokens, one window needs 512; give a longer one with --calibration"),
    (("plan", "{checkpoint}", "-o", "out", *METHOD, "--calibration", "few.txt"),
     "few.txt: has 61 tokens, one window needs 512; give a longer one with --calibration, or --calibration-tokens 61"),
    (("compress", "{checkpoint}", "-o", "out", *RECOVERING, "--recover-text", "few.txt"),
     "few.txt: has 61 tokens, one window needs 256; give a longer one with --recover-text, or --recover-tokens 480"),
    (("compress", "{checkpoint}", "-o", "out", *RECOVERING, "--recover-tokens", "800", "--recover-text", "few.txt"),
     "few.txt: gives one window of 50 tokens, recovery needs two; give a longer one with --recover-text, or "
     "--recover-tokens 400"),
    (("compress", "{checkpoint}", "-o", "out", *METHOD, *WORDS, "--text", "few.txt"),
     "few.txt: has 61 tokens, one window needs 512; give --text a file of 512 tokens or more"),
    (("validate", "{bundle}", "--reference", "{bundle}", "--text", "few.txt"),
     "few.txt: has 61 tokens, one window needs 512; give --text a file of 512 tokens or more"),
])
def test_a_short_text_is_told_with_an_option_that_helps(
    arguments: tuple[str, ...], says: str, bundle: Bundle, checkpoint: Path, texts: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    (texts / "few.txt").write_text(" a" * 60)
    forbid_long_work(monkeypatch)
    code, line = told([a.format(bundle=bundle.path, checkpoint=checkpoint) for a in arguments], capsys)
    assert (code, line) == (3, f"error: {says}")
    if option := says.rpartition(", or ")[2] if ", or " in says else "":
        with pytest.raises(LongWork):
            main.cli.main([a.format(bundle=bundle.path, checkpoint=checkpoint) for a in (*arguments, *option.split())],
                          standalone_mode=False)


class LongWork(Exception):
    """It has begun."""


def forbid_long_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def begun(*_: object, **__: object) -> None:
        raise LongWork

    for place in ("foldrank.plans.compose.load_decoder", "foldrank.model.checkpoint.check_finite",
                  "foldrank.verbs.export.export", "foldrank.verbs.validate.reference_of"):
        monkeypatch.setattr(place, begun)


def test_always_without_a_bos_token_is_wrong_use(
    specs_5m: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(specs_5m, tmp_path / "nameless"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "bos_token": None}))
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    code, line = told(["plan", folder, "-o", tmp_path / "out", *METHOD, "--bos", "always"], capsys)
    assert code == 2
    assert "the tokenizer names no bos token; give auto or never" in line
