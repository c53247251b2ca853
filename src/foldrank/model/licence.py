"""A checkpoint's licence: what its model card states, and the files that hold the text.

What a stranger's card says is taken only in the form the Hub gives it; nothing is concluded from a file's text.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

_TEXTS = re.compile(r"(?i)(licen[cs]e|notice|copying|use[_-]policy)[\w.-]*")
_SUFFIXES = ("", ".txt", ".md", ".rst")
_MOST_BYTES = 1 << 20
_CARD_BYTES = 1 << 16
"""The front matter stands at the card's beginning."""
_FORMS = {
    "license": re.compile(r"[\w.+-]{1,64}"),
    "license_name": re.compile(r"[\w.+ -]{1,96}"),
    "license_link": re.compile(r"(https://)?[\w.~%/#?=&+-]{1,256}"),
}
KEYS = tuple(_FORMS)


def licence_files(folder: Path) -> list[Path]:
    """The licence, notices and policies of use in a checkpoint's folder, by name."""
    return sorted(path for path in folder.iterdir() if is_licence(path.name) and path.is_file()
                  and path.stat().st_size <= _MOST_BYTES)


def is_licence(name: str) -> bool:
    """Whether a file of that name holds a licence, a notice or a policy of use."""
    return _TEXTS.fullmatch(name) is not None and (Path(name).suffix in _SUFFIXES or name[-1].isdigit())


def stated_licence(folder: Path) -> dict[str, str]:
    """`license`, `license_name` and `license_link` as the front matter of the folder's README.md has them.

    Several licences are joined by a comma. Empty where there is no such card; a value of another form is left out.
    """
    data = _front_matter(folder / "README.md")
    if isinstance(names := data.get("license"), list) and all(_fits("license", name) for name in names):
        return {"license": ",".join(names)} if names else {}
    return {key: data[key] for key in KEYS if _fits(key, data.get(key))}


def _fits(key: str, value: object) -> bool:
    return isinstance(value, str) and _FORMS[key].fullmatch(value) is not None


def _front_matter(card: Path) -> dict[str, Any]:
    try:
        with card.open("rb") as file:
            text = file.read(_CARD_BYTES).decode("utf-8-sig", errors="replace")
        found = re.match(r"---[ \t]*\r?\n(.*?)\n---[ \t]*\r?(\n|$)", text, re.DOTALL)
        data = yaml.safe_load(found[1]) if found else {}
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        return {}
    return {str(key): value for key, value in data.items()} if isinstance(data, dict) else {}
