"""Checkpoints whose tokenizer puts beginning-of-text tokens in front, made from one that does not.

Knows tokenizer.json. Knows nothing of foldrank.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path


def with_bos(checkpoint: Path, folder: Path, *front: str) -> Path:
    """A copy whose tokenizer puts these tokens (default one) in front of a text, and its end of text behind it, as some
    do. They take the last places of the vocabulary, so that the embedding table has rows for them."""
    names = front or ("<|bos|>",)
    shutil.copytree(checkpoint, folder)
    held = json.loads((folder / "tokenizer.json").read_text())
    model, end = held["model"], held["added_tokens"][0]
    last = max(model["vocab"].values())
    ids = {name: last - number for number, name in enumerate(names)}
    gone = {token for token, place in model["vocab"].items() if place in ids.values()}
    model["merges"] = [pair for pair in model["merges"] if not gone & {*_parts(pair), "".join(_parts(pair))}]
    model["vocab"] = {token: place for token, place in model["vocab"].items() if token not in gone} | ids
    held["added_tokens"] += [{**end, "id": place, "content": name} for name, place in ids.items()]
    text = {"Sequence": {"id": "A", "type_id": 0}}
    added = [{"SpecialToken": {"id": name, "type_id": 0}} for name in (*names, end["content"])]
    held["post_processor"] = {
        "type": "TemplateProcessing", "single": [*added[:-1], text, added[-1]],
        "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {name: {"id": name, "ids": [place], "tokens": [name]}
                           for name, place in {**ids, end["content"]: end["id"]}.items()},
    }
    (folder / "tokenizer.json").write_text(json.dumps(held))
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "bos_token": names[0]}))
    return folder


def _parts(pair: str | list[str]) -> list[str]:
    return pair.split(" ") if isinstance(pair, str) else pair
