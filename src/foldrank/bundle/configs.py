"""What a bundle's config files say of its graph: genai_config.json first, config.json otherwise."""

from __future__ import annotations

from pathlib import Path

from foldrank import strictjson
from foldrank.errors import SourceError
from foldrank.model import facts


def head_size(folder: Path) -> int:
    """Head size as genai_config.json says, else config.json (head_dim, or hidden over heads). Raises SourceError."""
    try:
        if (folder / "genai_config.json").is_file():
            return int(strictjson.read(folder / "genai_config.json")["model"]["decoder"]["head_size"])
        config = strictjson.read(folder / "config.json")
        if (size := facts.head_size(config)) is None:
            raise KeyError("no key of config.json names it")
        return size
    except (OSError, KeyError, TypeError, strictjson.JsonError) as error:
        raise SourceError(folder, f"no config tells the head size ({error})", "export again") from None


def context_length(folder: Path) -> int:
    """Positions a model looks at: genai_config.json's, else config.json's.

    Raises SourceError where neither says it.
    """
    try:
        if (folder / "genai_config.json").is_file():
            found = strictjson.read(folder / "genai_config.json")["model"].get("context_length")
            if found:
                return int(found)
        config = strictjson.read(folder / "config.json")
        if (length := facts.context_length(config)) is None:
            raise KeyError("no key of config.json names it")
        return length
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise SourceError(folder, f"no config tells the context length ({error})", "export again") from None
