"""Windows open with what the tokenizer puts in front of a text; oracles are its own call and naive windows."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bos import with_bos

from foldrank.errors import SourceError
from foldrank.model.checkpoint import Checkpoint
from foldrank.model.context import usable
from foldrank.model.opening import PLAIN, Opening
from foldrank.planfile.document import read_document
from foldrank.plans import compose
from foldrank.plans.calibration import calibration_windows
from foldrank.plans.chats import Chat
from foldrank.plans.encoding import Prompts, encoded, opening_of
from foldrank.plans.shards import HERE, Shards
from foldrank.plans.solver.windows import shortened, split
from foldrank.plans.texts import Text, cut_windows, load_text, load_tokenizer, windows
from foldrank.plans.training.recovering import Recovery, recovery_windows
from foldrank.verbs.plan import plan

BOS = 4095
IDS = np.arange(1, 61)


@pytest.fixture(scope="module")
def checkpoint(specs_5m: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model beside a tokenizer that writes <|bos|> text <|endoftext|>."""
    return with_bos(specs_5m, tmp_path_factory.mktemp("bos") / "checkpoint")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of some 5,000 tokens."""
    path = tmp_path_factory.mktemp("words") / "words.txt"
    path.write_text("\n".join(load_text(None, "calibration")[:9])[:24_000])
    return path


def naive(tokenizer: Any, documents: list[str], window: int) -> list[list[int]]:
    """By the tokenizer's own call: what stands in front of the first, then text and ends alone, chunk by chunk."""
    whole = [tokenizer(document)["input_ids"] for document in documents]
    assert all(row[0] == tokenizer.bos_token_id and row[-1] == tokenizer.eos_token_id for row in whole)
    stream = [token for row in whole for token in row[1:]][:-1]
    size = window - 1
    return [[whole[0][0], *stream[at : at + size]] for at in range(0, len(stream) - size + 1, size)]


def test_every_window_opens_with_what_the_tokenizer_adds(checkpoint: Path) -> None:
    tokenizer: Any = load_tokenizer(checkpoint)
    documents = [document[:2000] for document in load_text(None, "validation")[:9]]
    cut = cut_windows(Text("t", "", tuple(documents)), tokenizer, window=64, windows=None, seed=None)
    wanted = naive(tokenizer, documents, 64)
    assert cut.ids.tolist() == wanted
    assert cut.opening == Opening(BOS)
    assert BOS not in cut.ids[:, 1:]
    drawn = cut_windows(Text("t", "", tuple(documents)), tokenizer, window=64, windows=5, seed=3).ids.tolist()
    assert len(drawn) == 5
    assert all(row in wanted for row in drawn)


def test_always_and_never_have_their_way(checkpoint: Path, specs_5m: Path) -> None:
    adds, plain = load_tokenizer(checkpoint), load_tokenizer(specs_5m)
    assert [opening_of(adds, bos).bos for bos in ("auto", "always", "never")] == [BOS, BOS, None]
    assert [opening_of(plain, bos).bos for bos in ("auto", "always", "never")] == [None, 0, None]
    text = Text("t", "", ("Some words to cut into windows of tokens.",))
    never = cut_windows(text, adds, window=4, windows=None, seed=None, bos="never").ids
    assert never.ravel().tolist() == adds(text.documents, add_special_tokens=False)["input_ids"][0][: never.size]
    assert np.array_equal(windows(text.documents, plain, 4, None, None), never)


def test_what_cannot_be_followed_is_said(specs_5m: Path, checkpoint: Path, tmp_path: Path) -> None:
    nameless: Any = load_tokenizer(specs_5m)
    nameless.bos_token = None
    with pytest.raises(ValueError, match="bos always: the tokenizer names no bos token; give auto or never"):
        opening_of(nameless, "always")
    with pytest.raises(ValueError, match="bos 'often': known are auto, always, never"):
        opening_of(nameless, "often")
    two = load_tokenizer(with_bos(specs_5m, tmp_path / "two", "<a>", "<b>"))
    with pytest.raises(SourceError, match="puts 2 tokens in front of every text, ids 4095, 4094; --bos never"):
        opening_of(two)
    assert (opening_of(two, "always").bos, opening_of(two, "never").bos) == (4095, None)


@pytest.mark.parametrize("form", ["of Llama 3", "of RoBERTa", "of GPT-2"])
def test_other_post_processors_are_followed_too(form: str, specs_5m: Path, tmp_path: Path) -> None:
    folder = with_bos(specs_5m, tmp_path / "other")
    held = json.loads((folder / "tokenizer.json").read_text())
    lone = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    held["post_processor"] = {
        "of Llama 3": {"type": "Sequence", "processors": [lone, held["post_processor"]]},
        "of RoBERTa": {"type": "RobertaProcessing", "sep": ["<|endoftext|>", 0], "cls": ["<|bos|>", BOS],
                       "trim_offsets": True, "add_prefix_space": False},
        "of GPT-2": lone,
    }[form]
    (folder / "tokenizer.json").write_text(json.dumps(held))
    tokenizer: Any = load_tokenizer(folder)
    adds = tokenizer("ab")["input_ids"][0] == BOS
    assert adds == (form != "of GPT-2")
    assert opening_of(tokenizer).bos == (BOS if adds else None)


def test_windows_cut_shorter_keep_it() -> None:
    ids = np.stack([np.concatenate([[BOS], IDS[:19]]), np.concatenate([[BOS], IDS[20:39]])])
    assert Opening(BOS).cut_to(ids, 20).tolist() == ids.tolist()
    halves = Opening(BOS).cut_to(ids, 10)
    assert halves.tolist() == [[BOS, *IDS[:9]], [BOS, *IDS[9:18]], [BOS, *IDS[20:29]], [BOS, *IDS[29:38]]]
    losses = np.where(np.arange(127) < 64, 1.0, 9.0)
    rising = usable(np.tile(np.arange(128), (2, 1)), lambda _: losses, opening=Opening(0))
    assert rising.tolist() == [[0, *range(1, 64)], [0, *range(64, 127)]] * 2
    long = Opening(BOS).cut(np.arange(4 * 511), 512)
    assert long.shape == (4, 512)
    measured, fitted = split(shortened(long, Opening(BOS)), Opening(BOS))
    assert len(measured) + len(fitted) == 8
    assert (np.concatenate([measured, fitted])[:, 0] == BOS).all()
    assert np.array_equal(np.sort(np.concatenate([measured, fitted])[:, 1:].ravel()), np.arange(4 * 510) + np.repeat(
        np.arange(4), 510))
    one = split(long[:1], Opening(BOS))
    assert [part[0, 0] for part in one] == [BOS, BOS]
    assert [part.shape for part in split(long[:1])] == [(1, 256), (1, 256)]


def test_plan_and_recovery_say_so_and_without_one_the_plan_stays_as_it_was(
    checkpoint: Path, words: Path, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {"methods": ["slm:keep=1"], "calibration": words, "calibration_tokens": 512}
    made = plan(checkpoint, tmp_path / "made", **asked)
    told = read_document(tmp_path / "made" / "plan.json").calibration
    assert told is not None
    assert told == made.document.calibration
    assert (told.bos, told.tokens) == (BOS, 512)
    never = plan(checkpoint, tmp_path / "never", bos="never", **asked)
    held = json.loads((tmp_path / "never" / "plan.json").read_text())["calibration"]
    assert sorted(held) == ["name", "seed", "sha256", "tokens", "window", "windows"]
    assert never.document.calibration != told
    opened = Checkpoint.open(checkpoint)
    for bos, wanted in (("auto", {BOS}), ("never", set(range(4096)) - {BOS})):
        drawn = recovery_windows(opened, Recovery("lora", words, tokens=4096, bos=bos), 0)
        assert drawn.ids.shape == (16, 256)
        assert set(drawn.ids[:, 0].tolist()) <= wanted


def test_a_resumed_plan_sees_the_choice(checkpoint: Path, words: Path) -> None:
    opened = Checkpoint.open(checkpoint)
    found, never = (calibration_windows(opened, words, 512, 0, bos=bos) for bos in ("auto", "never"))
    keys = {compose._inputs(opened, made, 0, "cpu", HERE)
            for made in (found, replace(found, opening=Opening(7)), never)}
    assert len(keys | {compose._inputs(opened, found, 0, "cpu", Shards(2))}) == 4


def test_prompts_are_encoded_as_the_tokenizer_would_but_for_what_ends_them(checkpoint: Path, specs_5m: Path) -> None:
    for folder in (checkpoint, specs_5m):
        tokenizer: Any = load_tokenizer(folder)
        prompts = Prompts(tokenizer, opening_of(tokenizer), rows=4096)
        for prompt in ("Hello world", " two\nlines", ""):
            whole = tokenizer.encode(prompt)
            assert prompts.encode(prompt) == (whole[:-1] if folder == checkpoint else whole)
        assert Prompts(tokenizer, PLAIN).encode("Hello") == tokenizer.encode("Hello", add_special_tokens=False)


def test_a_chat_template_that_writes_the_token_itself_does_not_write_it_twice(checkpoint: Path) -> None:
    pytest.importorskip("jinja2")
    tokenizer: Any = load_tokenizer(checkpoint)
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    text = Text("t", "", (Chat("t:1", ({"role": "user", "content": "Some words to read"},)),))
    cut = cut_windows(text, tokenizer, window=5, windows=None, seed=None)
    assert cut.ids[0].tolist() == tokenizer("Some words to read")["input_ids"][:5]


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json"])
def test_a_byte_order_mark_in_a_file_of_the_tokenizer_changes_nothing(
    tiny_models: Path, tmp_path: Path, name: str
) -> None:
    source = tiny_models / "llama" / "checkpoint"
    folder = Path(shutil.copytree(source, tmp_path / "model"))
    (folder / name).write_bytes(b"\xef\xbb\xbf" + (source / name).read_bytes())
    found, wanted = (encoded(load_tokenizer(path), ["Größe of the thing"], special=True) for path in (folder, source))
    assert found == wanted
