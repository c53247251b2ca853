"""What packages that write text by themselves are made of: the program, and what stands before every prompt."""

from __future__ import annotations

from pathlib import Path

from foldrank.bundle.bundle import Bundle
from foldrank.errors import ExportError, SourceError
from foldrank.installed import require

GENERATION = "foldrank_generation.py"
_FOLDER = Path(__file__).with_name("standalone")


def program(name: str) -> str:
    """The text of one of the programs."""
    return (_FOLDER / name).read_text(encoding="utf-8")


def front(bundle: Bundle) -> list[int]:
    """Tokens that the bundle's tokenizer puts in front of a text, the beginning-of-text token of some. Raises
    ProviderUnavailable where the library that reads it is missing, SourceError."""
    require({"tokenizers": "torch"})
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(bundle.path / "tokenizer.json"))
    except Exception as error:  # noqa: BLE001 - tokenizers raises plain Exception for a stranger's file
        reason = str(error).strip().splitlines()
        raise SourceError(bundle.path / "tokenizer.json", f"cannot be read: {reason[0] if reason else 'unknown'}",
                          "export again") from None
    bare, whole = (tokenizer.encode("a", add_special_tokens=special).ids for special in (False, True))
    return list(whole[: whole.index(bare[0])]) if bare and bare[0] in whole else []


def refuse_without_genai(bundle: Bundle, what: str) -> None:
    """Raise ExportError where a bundle has no genai_config.json, which the generation reads."""
    if "genai_config.json" not in bundle.manifest.files:
        raise ExportError(bundle.path, f"has no genai_config.json, by which {what} opens it", "export again")
