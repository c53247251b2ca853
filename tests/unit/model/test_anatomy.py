"""A checkpoint's anatomy from config and headers alone: whichever way its weights lie, and what is not read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from foldrank.edits.anatomy import Anatomy
from foldrank.errors import SourceError
from foldrank.model.anatomy import checkpoint_anatomy
from foldrank.model.checkpoint import Checkpoint
from foldrank.model.tensorfile import read_header

GPT2 = {"model_type": "gpt2", "n_head": 2, "n_embd": 8, "n_layer": 2}
PHI3 = {"model_type": "phi3", "num_attention_heads": 2, "num_key_value_heads": 1, "hidden_size": 12, "head_dim": 4}


def read(folder: Path, config: dict[str, Any], shapes: dict[str, tuple[int, ...]], **numbers: np.ndarray) -> Anatomy:
    """Of zeros of these shapes, and of tensors given by their numbers."""
    tensors = {name: np.zeros(shape, np.float16) for name, shape in shapes.items()}
    save_file(tensors | {name.replace("__", "."): array for name, array in numbers.items()}, folder / "w.safetensors")
    return checkpoint_anatomy(Checkpoint(folder, "tiny", config, "", read_header(folder / "w.safetensors")))


def test_gpt2_stores_in_out_under_names_without_a_prefix(tmp_path: Path) -> None:
    """As the oldest of its checkpoints do; masks that such hold are no weights."""
    block = {"ln_1.weight": (8,), "attn.bias": (1, 1, 4, 4), "attn.c_attn.weight": (8, 24),
             "attn.c_proj.weight": (8, 8), "mlp.c_fc.weight": (8, 20), "mlp.c_proj.weight": (20, 8)}
    shapes = {f"h.{n}.{name}": shape for n in range(2) for name, shape in block.items()}
    found = read(tmp_path, GPT2, shapes | {"wte.weight": (50, 8)})
    assert (found.numbers, found.cached, found.mlp_width) == ((0, 1), (0, 1), 20)
    assert {role: matrix.shape for role, matrix in found.block(1).matrices.items()} == {
        "q": (8, 8), "k": (8, 8), "v": (8, 8), "o": (8, 8), "up": (8, 20), "down": (20, 8)}
    assert (found.head and found.head.shape, found.tied) == ((8, 50), True)
    assert (found.heads, found.kv_heads, found.head_size) == (2, 2, 4)
    assert found.block(0).unread == frozenset()


def test_packed_weights_come_apart_by_heads_and_halves(tmp_path: Path) -> None:
    name = "model.layers.0"
    found = read(tmp_path, PHI3, {
        f"{name}.self_attn.qkv_proj.weight": (16, 12), f"{name}.self_attn.o_proj.weight": (12, 8),
        f"{name}.mlp.gate_up_proj.weight": (40, 12), f"{name}.mlp.down_proj.weight": (12, 20),
        "model.embed_tokens.weight": (50, 12), "lm_head.weight": (51, 12)})
    matrices = found.block(0).matrices
    assert {role: matrix.shape for role, matrix in matrices.items()} == {
        "q": (12, 8), "k": (12, 4), "v": (12, 4), "o": (8, 12), "gate": (12, 20), "up": (12, 20), "down": (20, 12)}
    assert (matrices["k"].packed, matrices["up"].packed, matrices["o"].dtype) == (
        ("q", "k", "v"), ("gate", "up"), "float16")
    assert (found.head and found.head.shape, found.tied) == ((12, 51), False)


@pytest.mark.parametrize(("config", "moved", "tied"), [
    ({"tie_word_embeddings": True}, 0.0, True), ({"tie_word_embeddings": True}, 1.0, False),
    ({"tie_word_embeddings": False}, 0.0, False), ({}, 1.0, False),
])
def test_a_head_that_is_stored_is_the_tables_where_config_and_numbers_say_so(
    tmp_path: Path, config: dict[str, Any], moved: float, tied: bool
) -> None:
    table = np.arange(600, dtype=np.float32).reshape(50, 12)
    other = table.copy()
    other[-1, -1] += moved
    found = read(tmp_path, {**PHI3, **config}, {}, model__embed_tokens__weight=table, lm_head__weight=other)
    assert found.tied is tied


def test_matrices_of_other_names_are_there_and_not_read(tmp_path: Path) -> None:
    name = "model.layers.3"
    found = read(tmp_path, PHI3, {
        f"{name}.self_attn.wqkv.weight": (16, 12), f"{name}.self_attn.o_proj.weight": (12, 8),
        f"{name}.mlp.experts.0.down_proj.weight": (12, 20)})
    assert (found.numbers, found.head) == ((3,), None)
    assert (set(found.block(3).matrices), found.block(3).unread) == ({"o"}, {"q", "k", "v", "gate", "up", "down"})
    assert (found.block(3).branches, found.mlp_width) == (("attention", "mlp"), None)


def test_a_config_that_tells_no_heads_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"config\.json: does not tell heads and their size; it must name"):
        read(tmp_path, {"hidden_size": 12}, {"model.layers.0.mlp.up_proj.weight": (20, 12)})
