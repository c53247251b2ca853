"""What a tokenizer puts in front of a text: what windows open with, and how prompts are encoded. Needs no torch.

The one place that decides on the beginning-of-text token: all that read text ask here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np

from foldrank.errors import SourceError
from foldrank.model.opening import Opening
from foldrank.model.token_rows import check_rows

Bos = Literal["auto", "always", "never"]
"""`auto`: what the tokenizer does by itself; `always`: its bos token; `never`: none."""

_PROBE = "a"


class Tokenizer(Protocol):
    """What is asked of a tokenizer; every transformers tokenizer has it."""

    eos_token_id: int | None

    def __call__(self, text: list[str], *, add_special_tokens: bool, verbose: bool) -> Any: ...


def opening_of(tokenizer: Tokenizer, bos: str = "auto") -> Opening:
    """What windows of this tokenizer's tokens open with. Raises ValueError on a choice that there is not or that the
    tokenizer cannot follow, SourceError where it puts several tokens in front."""
    match bos:
        case "never":
            return Opening()
        case "always":
            return Opening(_own_bos(tokenizer))
        case "auto":
            return Opening(_added(tokenizer))
    raise ValueError(f"bos {bos!r}: known are {', '.join(get_args(Bos))}")


def _own_bos(tokenizer: Tokenizer) -> int:
    found = getattr(tokenizer, "bos_token_id", None)
    if found is None:
        raise ValueError("bos always: the tokenizer names no bos token; give auto or never")
    return int(found)


def _added(tokenizer: Tokenizer) -> int | None:
    """The token that the tokenizer puts in front of a text, if any."""
    [bare], [whole] = (encoded(tokenizer, [_PROBE], special=special) for special in (False, True))
    front = whole[: whole.index(bare[0])] if bare and bare[0] in whole else []
    if len(front) > 1:
        what = f"puts {len(front)} tokens in front of every text, ids {', '.join(map(str, front))}"
        raise SourceError("tokenizer", what, "--bos never leaves them out, --bos always takes its bos token alone")
    return front[0] if front else None


def encoded(tokenizer: Tokenizer, texts: Sequence[str], *, special: bool = False) -> list[list[int]]:
    """Token ids of each text, without the tokens that the tokenizer adds unless `special`."""
    rows: list[list[int]] = tokenizer(list(texts), add_special_tokens=special, verbose=False)["input_ids"]
    return rows


def spelled(tokenizer: Tokenizer, token: int) -> str:
    """A token as text, for people."""
    decode = getattr(tokenizer, "decode", None)
    return str(decode([token])) if decode else ""


@dataclass(frozen=True)
class Prompts:
    """A tokenizer for prompts that are to be continued, as `runtime.generate` asks for one.

    `rows`: of the model's embedding table, None where unknown. A prompt ends with its own text: a token that the
    tokenizer puts behind texts would end it.
    """

    tokenizer: Any
    opening: Opening
    rows: int | None = None

    def encode(self, text: str) -> list[int]:
        """Token ids, what stands in front included. Raises SourceError on a token beyond the rows."""
        [ids] = encoded(self.tokenizer, [text])
        ids = self.opening.wrapped(np.array([ids], np.int64))[0].tolist()
        check_rows(ids, self.rows, "the prompt", lambda token: spelled(self.tokenizer, token))
        return ids

    def decode(self, tokens: list[int]) -> str:
        """The text of tokens."""
        return str(self.tokenizer.decode(tokens))
