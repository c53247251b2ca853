"""Requests: OpenAI's fields within bounds; what the server does not do is refused by name, what asks nothing passes."""

from typing import Any

import pytest

from foldrank.verbs.serving.asked import Refused, chat, completion

TURN = {"role": "user", "content": "hi"}
NEUTRAL = {
    "user": "me", "metadata": {"a": "b"}, "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": None,
    "logprobs": None, "tools": [], "response_format": {"type": "text"}, "stop": None,
}


def test_what_asks_for_nothing_passes() -> None:
    found = chat({"model": "m", "messages": [TURN], **NEUTRAL})
    assert (found.temperature, found.top_p, found.n, found.stops, found.tokens) == (1.0, 1.0, 1, [], None)
    assert completion({"model": "m", "prompt": "a", **NEUTRAL}).tokens == 16


@pytest.mark.parametrize(("field", "value"), [
    ("frequency_penalty", 0.5), ("logprobs", True), ("tools", [{"type": "function"}]), ("logit_bias", {"5": 1}),
    ("response_format", {"type": "json_object"}), ("temprature", 0.5), ("temperature", -1), ("temperature", "warm"),
    ("top_p", 0), ("max_tokens", 0), ("n", 17), ("stop", ["a"] * 5), ("stop", ""), ("seed", 2**70),
    ("messages", []), ("messages", [{"role": "tool", "content": "x"}]),
])
def test_what_cannot_be_done_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(Refused) as caught:
        chat({"model": "m", "messages": [TURN], field: value})
    assert (caught.value.status, caught.value.param) == (400, field)


def test_text_parts_are_joined_and_pictures_refused() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    [message] = chat({"model": "m", "messages": [{"role": "developer", "content": parts}]}).messages
    assert message.plain() == {"role": "system", "content": "ab"}
    picture = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
    [message] = chat({"model": "m", "messages": [picture]}).messages
    with pytest.raises(Refused, match="image_url"):
        message.plain()


@pytest.mark.parametrize(("prompt", "wanted"), [
    ("a", ["a"]), ([5, 6], [[5, 6]]), (["a", "b"], ["a", "b"]), ([[5], [6, 7]], [[5], [6, 7]]),
])
def test_a_prompt_is_a_text_or_tokens_or_several(prompt: Any, wanted: list[Any]) -> None:
    assert completion({"model": "m", "prompt": prompt}).prompts == wanted


@pytest.mark.parametrize("prompt", [[], [-1], ["a", 5], [2**31], {}, ["a"] * 65])
def test_other_prompts_are_refused(prompt: Any) -> None:
    with pytest.raises(Refused):
        completion({"model": "m", "prompt": prompt})
