"""Several prompts at once: each row is what its prompt is alone, whatever its length, its neighbours and their ends."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from foldrank.cli import main
from foldrank.errors import SourceError
from foldrank.plans.texts import load_tokenizer
from foldrank.runtime.decoding.batch import batches, continued, padded, padding_side, with_onnxruntime
from foldrank.runtime.decoding.decoder import OrtDecoder
from foldrank.runtime.decoding.prompts import check_prompts
from foldrank.runtime.decoding.sampling import Sampling, choose
from foldrank.runtime.providers.provider import resolve
from foldrank.verbs.run import run

CPU = resolve("cpu")
PROMPTS = ["This proposal adds", "We", "The compiler should warn about the following code when it"]
GREEDY, SAMPLED = Sampling(), Sampling(temperature=1.0, seed=7)
NO_END: frozenset[int] = frozenset()


@pytest.fixture(params=["genai", "llama", "mistral", "gemma2", "gpt2"])
def folder(request: pytest.FixtureRequest) -> Path:
    """GroupQueryAttention; rotary positions, with full and sliding attention; none are told; learned positions."""
    if request.param == "genai":
        return request.getfixturevalue("dense_5m")
    return request.getfixturevalue("tiny_models") / request.param / "optimum"


@pytest.fixture
def decoder(folder: Path) -> OrtDecoder:
    return OrtDecoder.open(folder, CPU, threads=1)


def alone(decoder: OrtDecoder, ids: list[int], tokens: int, sampling: Sampling, end: int) -> list[int]:
    """One prompt's new tokens, by the shortest loop there is: the whole text is read again for each."""
    random, new = np.random.default_rng(sampling.seed), []
    while len(new) < tokens and end not in new:
        new.append(choose(decoder.prefill(np.array([[*ids, *new]]))[0, -1], sampling, random))
    return new


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_row_is_what_its_prompt_is_alone(folder: Path, decoder: OrtDecoder, sampling: Sampling) -> None:
    tokenizer: Any = load_tokenizer(folder)
    settings: dict[str, Any] = {"context": 100, "threads": 1, "ends": {tokenizer.eos_token_id}}
    found = with_onnxruntime(folder, PROMPTS, CPU, tokenizer, tokens=20, sampling=sampling, **settings)
    for number, (prompt, row) in enumerate(zip(PROMPTS, found, strict=True)):
        seeded, ids = replace(sampling, seed=sampling.seed + number), tokenizer.encode(prompt)
        assert row.tokens == alone(decoder, ids, 20, seeded, tokenizer.eos_token_id)
        assert row.prompt_tokens == len(ids)


def test_a_lone_prompts_text_is_told_as_it_grows_and_never_half_a_character(dense_5m: Path) -> None:
    tokenizer: Any = load_tokenizer(dense_5m)
    pieces: list[str] = []
    settings: dict[str, Any] = {"tokens": 24, "context": 100, "threads": 1, "sampling": SAMPLED, "told": pieces.append}
    [found] = with_onnxruntime(dense_5m, ["We"], CPU, tokenizer, ends=NO_END, **settings)
    assert "".join(pieces) == found.text
    assert len(pieces) > 12
    stop = found.tokens[7]
    pieces.clear()
    [found] = with_onnxruntime(dense_5m, ["We"], CPU, tokenizer, ends={stop}, **settings)
    assert "".join(pieces) == found.text == tokenizer.decode(found.tokens[:-1])


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_row_that_ends_changes_no_other(decoder: OrtDecoder, sampling: Sampling) -> None:
    prompts = [[5, 17, 30], [9, 2, 33, 33, 102, 7, 8], [41]]
    settings: dict[str, Any] = {"tokens": 16, "sampling": sampling, "context": 100}
    whole = continued(decoder, prompts, ends=NO_END, **settings)
    ends = {whole[1][3]}
    found = continued(decoder, prompts, ends=ends, **settings)
    for row, unended in zip(found, whole, strict=True):
        stop = next((at for at, token in enumerate(unended, start=1) if token in ends), len(unended))
        assert row == unended[:stop]
    assert len(found[1]) <= 4


def test_a_prompt_that_the_context_cuts_cuts_no_other(decoder: OrtDecoder) -> None:
    prompts = [[5, 17, 30], list(range(1, 28))]
    settings: dict[str, Any] = {"tokens": 12, "sampling": GREEDY, "ends": NO_END}
    whole = continued(decoder, prompts, context=100, **settings)
    assert continued(decoder, prompts, context=30, **settings) == [whole[0], whole[1][:3]]


def test_the_end_of_text_is_counted_and_not_shown(dense_5m: Path) -> None:
    tokenizer: Any = load_tokenizer(dense_5m)
    settings: dict[str, Any] = {"tokens": 8, "sampling": GREEDY, "context": 100, "threads": 1}
    whole = with_onnxruntime(dense_5m, PROMPTS, CPU, tokenizer, ends=NO_END, **settings)[0]
    ends = {whole.tokens[5]}
    found = with_onnxruntime(dense_5m, PROMPTS, CPU, tokenizer, ends=ends, **settings)[0]
    assert found.tokens == whole.tokens[:6]
    assert found.text == tokenizer.decode(whole.tokens[:5])


def test_graphs_are_padded_where_they_allow_it(folder: Path, decoder: OrtDecoder) -> None:
    sides = {"llama": "left", "mistral": "left", "gemma2": None, "gpt2": "left"}
    session = decoder.session
    assert padding_side(session) == sides.get(folder.parent.name, "right")
    unmasked = {name: port for name, port in session.inputs.items() if name != "attention_mask"}
    assert padding_side(replace(session, inputs=unmasked)) is None


@pytest.mark.parametrize(("side", "rows"), [("right", [[1, 2, 3], [4, 0, 0]]), ("left", [[1, 2, 3], [0, 0, 4]])])
def test_padding_is_masked(side: Any, rows: list[list[int]]) -> None:
    ids, mask = padded([[1, 2, 3], [4]], side)
    assert ids.tolist() == rows
    np.testing.assert_array_equal(mask, ids > 0)


def test_what_cannot_be_decoded_together_is_not() -> None:
    assert batches([3, 9, 3, 7], 4, 12, padded=True) == [[0, 2, 3], [1]]
    assert batches([3, 9, 3, 7], 4, 12, padded=False) == [[0, 2], [1], [3]]


def test_all_bad_prompts_are_named_by_number() -> None:
    with pytest.raises(SourceError, match=r"prompt 2 has no tokens \| prompt 4 has 9 tokens, the model looks at 9"):
        check_prompts(Path("b"), [1, 0, 8, 9], 9)


def test_a_batch_is_what_onnxruntime_genai_writes_prompt_by_prompt(dense_5m: Path) -> None:
    found = run(dense_5m, PROMPTS, max_new_tokens=32, threads=1)
    assert found["engine"] == "onnxruntime"
    for prompt, row in zip(PROMPTS, found["rows"], strict=True):
        alone = run(dense_5m, prompt, max_new_tokens=32, threads=1)
        assert alone["engine"] == "onnxruntime-genai"
        assert row == {key: alone[key] for key in ("prompt", "text", "prompt_tokens", "tokens")}
    assert found["tokens_per_second"] == pytest.approx(96 / found["seconds"])


def test_no_prompt_and_streaming_several_are_wrong_use(dense_5m: Path) -> None:
    with pytest.raises(ValueError, match="no prompt"):
        run(dense_5m, [])
    with pytest.raises(ValueError, match="not streamed"):
        run(dense_5m, PROMPTS, stream=print)


def test_the_command_line_takes_several_prompts(dense_5m: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_bytes("\ufeffWe\r\nThe [bold]\n".encode())
    arguments = ["run", str(dense_5m), "--prompt", "This proposal adds", "--prompts", str(tmp_path / "prompts.txt"),
                 "--max-new-tokens", "6"]
    done = CliRunner().invoke(main.cli, [*arguments, "--json"])
    found = json.loads(done.stdout)
    assert set(found) == {"rows", "seconds", "tokens_per_second", "engine", "provider", "instead_of"}
    assert [row["prompt"] for row in found["rows"]] == ["This proposal adds", "We", "The [bold]"]
    shown = CliRunner().invoke(main.cli, arguments).stdout
    for row in found["rows"]:
        assert f"{row['prompt']}\n→{row['text']}\n" in shown


def test_one_typed_prompt_gives_what_it_always_gave(dense_5m: Path) -> None:
    done = CliRunner().invoke(main.cli, ["run", str(dense_5m), "--prompt", "We", "--max-new-tokens", "2", "--json"])
    assert set(json.loads(done.stdout)) == {"prompt", "text", "prompt_tokens", "tokens", "seconds", "tokens_per_second",
                                            "engine", "provider", "instead_of"}


def test_bad_prompts_on_the_command_line_are_named(
    dense_5m: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", str(dense_5m)]
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    for arguments, code, says in (
        (["--prompt", "We", "--prompt", ""], 3, "prompt 2 has no tokens"),
        (["--prompt", "We", "--prompt", "word " * 2000], 3, "the model looks at 1024"),
        (["--prompts", str(tmp_path / "empty.txt")], 3, "holds no prompt"),
        (["--prompts", str(tmp_path / "latin.txt")], 3, "is not UTF-8"),
        (["--prompts", str(tmp_path / "none.txt")], 3, "cannot be read"),
        ([], 2, "give --prompt or --prompts"),
    ):
        assert main._run([*command, *arguments]) == code
        assert says in capsys.readouterr().err
