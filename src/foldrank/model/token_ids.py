"""The ids of the tokens that begin, end and pad a text: as a checkpoint's or bundle's files tell them, not a default.

generation_config.json before config.json before the tokenizer's own files. Knows JSON; loads no tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foldrank import strictjson
from foldrank.errors import SourceError
from foldrank.model import facts

TOKEN_IDS = {"bos_token_id": "bos_token", "eos_token_id": "eos_token", "pad_token_id": "pad_token"}
"""Keys of configs, and what the tokenizer's files call the same token. The builder fills them from class defaults."""


def token_ids(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint's or bundle's folder and its config.json tell, by key; a key that no file tells is not
    there. Raises SourceError on a file that is not JSON.

    The tokenizer's end-of-text token ends a text beside those that the configs name: a chat model ends its turn with
    it. Padding, where nothing is named, is the end of text.
    """
    generation = _json(folder / "generation_config.json")
    tokenizer = _of_tokenizer(folder)
    found: dict[str, Any] = {}
    for key in TOKEN_IDS:
        told = (held.get(key) for held in (generation, facts.text_config(config), config, tokenizer))
        value = next((value for value in told if value is not None), None)
        if value is not None:
            found[key] = value
    if "eos_token_id" in found:
        ends = _listed(found["eos_token_id"])
        own = tokenizer.get("eos_token_id")
        if own is not None and own not in ends:
            found["eos_token_id"] = [own, *ends]
        found.setdefault("pad_token_id", ends[0])
    return found


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) and value else [value]


def _of_tokenizer(folder: Path) -> dict[str, int]:
    """Ids of the special tokens that tokenizer_config.json or special_tokens_map.json name, from tokenizer.json."""
    held = {**_json(folder / "special_tokens_map.json"), **_json(folder / "tokenizer_config.json")}
    tokenizer = _json(folder / "tokenizer.json")
    found = {}
    for key, name in TOKEN_IDS.items():
        token = held.get(name)
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str) and (number := _id(tokenizer, text)) is not None:
            found[key] = number
    return found


def _id(tokenizer: Mapping[str, Any], text: str) -> int | None:
    """The number of a token in tokenizer.json: among those added, else in the model's vocabulary, a map or a list."""
    for entry in tokenizer.get("added_tokens") or ():
        if isinstance(entry, dict) and entry.get("content") == text and type(entry.get("id")) is int:
            return int(entry["id"])
    model = tokenizer.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        number = vocabulary.get(text)
        return number if type(number) is int else None
    rows = vocabulary if isinstance(vocabulary, list) else []
    return next((at for at, row in enumerate(rows) if isinstance(row, list) and row and row[0] == text), None)


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = strictjson.read_foreign(path)
    except (OSError, strictjson.JsonError) as error:
        raise SourceError(path, str(error), "fetch the checkpoint again") from None
    return found if isinstance(found, dict) else {}
