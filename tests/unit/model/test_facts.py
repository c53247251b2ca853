"""The context length under the key of each family; what is no number is nothing."""

from typing import Any

import pytest

from foldrank.model.facts import context_length, heads, width


@pytest.mark.parametrize(("config", "length"), [
    ({"max_position_embeddings": 2048}, 2048),
    ({"n_positions": 1024, "n_ctx": 512}, 1024),
    ({"n_ctx": 512}, 512),
    ({"max_sequence_length": 256}, 256),
    ({"max_seq_len": 128}, 128),
    ({"max_position_embeddings": None, "n_positions": 64}, 64),
    ({"text_config": {"max_position_embeddings": 32}, "max_position_embeddings": 8}, 32),
    ({"alibi": True}, None),
    ({"max_position_embeddings": 0}, None),
    ({"max_position_embeddings": True}, None),
    ({"max_position_embeddings": "many"}, None),
    ([], None),
])
def test_each_familys_key_is_read(config: Any, length: int | None) -> None:
    assert context_length(config) == length


@pytest.mark.parametrize(("config", "both"), [
    ({"num_attention_heads": 4, "hidden_size": 64}, (4, 64)),
    ({"n_head": 12, "n_embd": 768}, (12, 768)),
    ({"n_heads": 8, "d_model": 512}, (8, 512)),
    ({}, (None, None)),
])
def test_heads_and_width_are_read_too(config: Any, both: tuple[int | None, int | None]) -> None:
    assert (heads(config), width(config)) == both
