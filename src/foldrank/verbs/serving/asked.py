"""What a request may ask: OpenAI's fields, each with its bounds. What we cannot do is refused by name, never ignored.

Knows OpenAI's reference of chat and text completions. Knows nothing of HTTP and of models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

IGNORED = frozenset({
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls",
    "prompt_cache_retention",
})
"""Fields that change no answer."""
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,), "presence_penalty": (0,), "logit_bias": ({},), "logprobs": (False, 0),
    "top_logprobs": (0,), "best_of": (1,), "echo": (False,), "suffix": ("",), "tools": ([],),
    "tool_choice": ("none", "auto"), "response_format": ({"type": "text"},), "functions": ([],),
    "function_call": ("none",), "modalities": (["text"],), "reasoning_effort": ("none",),
}
"""Fields of what this server does not do, with the values that ask for nothing."""
_Text = Annotated[str, Field(min_length=1, max_length=1024)]
_Ids = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]


class Refused(Exception):
    """A request that cannot be done, as OpenAI words it: `status`, which parameter, a code."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message, self.status, self.param, self.code = message, status, param, code


class StreamOptions(BaseModel):
    """What a stream holds beside text."""

    model_config = ConfigDict(extra="ignore")
    include_usage: bool = False


class Asked(BaseModel):
    """Fields that both endpoints have."""

    model_config = ConfigDict(extra="forbid")
    default_tokens: ClassVar[int | None] = None
    """New tokens where the request names no number; None: as many as there is room for."""

    model: str
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    n: int = Field(default=1, ge=1, le=16)
    stop: _Text | Annotated[list[_Text], Field(max_length=4)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> list[str]:
        """Texts at which an answer ends."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    @property
    def tokens(self) -> int | None:
        """New tokens at most, as asked or by default."""
        return self.max_tokens if self.max_tokens is not None else self.default_tokens


class Part(BaseModel):
    """A piece of a message: text alone."""

    model_config = ConfigDict(extra="ignore")
    type: str
    text: str = ""


class Message(BaseModel):
    """One turn of a chat."""

    model_config = ConfigDict(extra="ignore")
    role: Annotated[str, Field(pattern="^(system|developer|user|assistant)$")]
    content: str | list[Part] | None = None

    def plain(self) -> dict[str, str]:
        """Role and text, as chat templates take them. Raises Refused: a picture or a sound."""
        parts = self.content if isinstance(self.content, list) else []
        if other := [part.type for part in parts if part.type != "text"]:
            raise Refused(f"content of type {other[0]!r} is not supported: this model reads text", param="messages")
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in parts)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class Chat(Asked):
    """A body of /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)]
    max_completion_tokens: int | None = Field(default=None, ge=1)

    @property
    def tokens(self) -> int | None:
        return self.max_completion_tokens or super().tokens


class Completion(Asked):
    """A body of /v1/completions: a text, tokens, or several of either."""

    default_tokens: ClassVar[int | None] = 16
    prompt: str | _Ids | Annotated[list[str] | list[_Ids], Field(min_length=1, max_length=64)]

    @property
    def prompts(self) -> list[str | list[int]]:
        """Every prompt."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [[int(token) for token in self.prompt]]
        return list(self.prompt)  # type: ignore[arg-type]


def chat(body: Any) -> Chat:
    """A chat request. Raises Refused."""
    return _read(Chat, body)


def completion(body: Any) -> Completion:
    """A text request. Raises Refused."""
    return _read(Completion, body)


def _read(kind: type[Any], body: Any) -> Any:
    if not isinstance(body, dict):
        raise Refused("the body must be a JSON object")
    kept = {key: value for key, value in body.items() if value is not None and key not in IGNORED}
    for key, neutral in NEUTRAL.items():
        if key in kept and kept.pop(key) not in neutral:
            raise Refused(f"{key} is not supported by this server", param=key, code="unsupported_parameter")
    try:
        return kind.model_validate(kept)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        param = ".".join(str(part) for part in first["loc"]) or None
        raise Refused(f"{param or 'body'}: {first['msg']}", param=str(first["loc"][0]) if param else None) from None
