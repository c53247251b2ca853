"""The ids that begin and end a text come from the checkpoint's files; where none tells, there are none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from foldrank.export.finish import finish_files
from foldrank.model.checkpoint import Checkpoint
from foldrank.model.token_ids import token_ids

IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


@pytest.fixture
def silent(tiny_models: Path, tmp_path: Path) -> Path:
    """The tiny Llama, whose files name no special token at all."""
    source = tiny_models / "llama" / "checkpoint"
    folder = Path(shutil.copytree(source, tmp_path / "tiny", copy_function=shutil.copyfile))
    for name in ("generation_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    (folder / "tokenizer_config.json").write_text("{}")
    held = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in held.items() if k not in IDS}))
    return folder


def add(path: Path, **values: Any) -> None:
    held = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(held | values))


def told(folder: Path) -> dict[str, Any]:
    return token_ids(folder, json.loads((folder / "config.json").read_text()))


def vocabulary(folder: Path, model: dict[str, Any], added: list[dict[str, Any]]) -> None:
    (folder / "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": added}))


def test_where_no_file_tells_there_are_no_ids(silent: Path) -> None:
    assert told(silent) == {}


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("token", ["</s>", {"content": "</s>", "special": True}])
@pytest.mark.parametrize(("model", "added"), [
    ({"vocab": {"a": 0}}, [{"id": 7, "content": "</s>"}]),
    ({"vocab": {"a": 0, "</s>": 7}}, []),
    ({"vocab": [[f"<{n}>", 0.0] for n in range(7)] + [["</s>", 0.0]]}, []),
])
def test_the_tokenizers_files_tell_where_the_configs_do_not(
    silent: Path, name: str, token: Any, model: dict[str, Any], added: list[dict[str, Any]]
) -> None:
    vocabulary(silent, model, added)
    add(silent / name, eos_token=token)
    assert told(silent) == {"eos_token_id": 7, "pad_token_id": 7}


def test_a_token_that_the_tokenizer_does_not_hold_is_no_id(silent: Path) -> None:
    vocabulary(silent, {"vocab": {"a": 0}}, [])
    add(silent / "tokenizer_config.json", eos_token="</s>", bos_token=None)
    assert told(silent) == {}


def test_generation_config_goes_before_config_and_the_end_of_a_turn_stands_beside_both(silent: Path) -> None:
    vocabulary(silent, {"vocab": {"a": 0}}, [{"id": 9, "content": "<|im_end|>"}])
    add(silent / "config.json", bos_token_id=3, eos_token_id=4)
    add(silent / "generation_config.json", eos_token_id=[5, 6])
    assert told(silent) == {"bos_token_id": 3, "eos_token_id": [5, 6], "pad_token_id": 5}
    add(silent / "tokenizer_config.json", eos_token="<|im_end|>")
    assert told(silent)["eos_token_id"] == [9, 5, 6]


@pytest.mark.parametrize("told", [{}, {"eos_token_id": 4}])
def test_a_builders_class_defaults_leave_the_bundle(silent: Path, tmp_path: Path, told: dict[str, int]) -> None:
    add(silent / "config.json", **told)
    built = tmp_path / "built"
    built.mkdir()
    defaults = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    (built / "genai_config.json").write_text(json.dumps({"model": {
        **defaults, "context_length": 64, "decoder": {"session_options": {"provider_options": []}}}}))
    finish_files(built, Checkpoint.open(silent), "cpu")
    wanted = {**told, "pad_token_id": 4} if told else {}
    written = json.loads((built / "genai_config.json").read_text())["model"]
    assert {key: written[key] for key in IDS if key in written} == wanted
    assert json.loads((built / "generation_config.json").read_text()) == wanted
