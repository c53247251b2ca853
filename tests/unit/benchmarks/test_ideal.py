"""Counts against numbers taken by hand on small graphs, and on the real export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from foldrank.benchmarks.ideal import Work, count, count_file
from foldrank.benchmarks.workload import Workload
from foldrank.edits.anatomy import Anatomy, BlockAnatomy, Matrix
from foldrank.errors import GraphNotRecognized

HIDDEN, INNER, VOCABULARY, HEADS, KV_HEADS, HEAD = 12, 20, 50, 6, 2, 4
ITEM = 4


def _graph(*, rank: int | None = None, shared: bool = False) -> onnx.ModelProto:
    """Tied embedding, a norm gain, an up-projection (dense or a pair), a down-projection, attention over one cache."""
    weights = {
        "head": (HIDDEN, VOCABULARY), "gain": (HIDDEN,), "down": (INNER, HIDDEN), "cos": (64, HEAD // 2),
        **({"up": (HIDDEN, INNER)} if rank is None else {"A": (HIDDEN, rank), "B": (rank, INNER)}),
    }
    up = [helper.make_node("MatMul", ["normed", "up"], ["wide"])] if rank is None else [
        helper.make_node("MatMul", ["normed", "A"], ["thin"]), helper.make_node("MatMul", ["thin", "B"], ["wide"])
    ]
    second = [helper.make_node("MatMul", ["wide", "down"], ["again"])] if shared else []
    nodes = [
        helper.make_node("Transpose", ["head"], ["table"], perm=[1, 0]),
        helper.make_node("Gather", ["table", "input_ids"], ["embedded"]),
        helper.make_node("Mul", ["embedded", "gain"], ["normed"]),
        *up,
        helper.make_node("MatMul", ["wide", "down"], ["narrow"]), *second,
        helper.make_node(
            "GroupQueryAttention",
            ["narrow", "", "", "past_key_values.0.key", "past_key_values.0.value", "", "", "cos"],
            ["attended", "present.0.key", "present.0.value"], domain="com.microsoft", num_heads=HEADS,
            kv_num_heads=KV_HEADS,
        ),
        helper.make_node("MatMul", ["attended", "head"], ["logits"]),
    ]
    cache = ["B", KV_HEADS, "past", "kv_cache_dim"]
    inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["B", "T"])]
    for part in ("key", "value"):
        inputs.append(helper.make_tensor_value_info(f"past_key_values.0.{part}", TensorProto.FLOAT, cache))
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", "T", VOCABULARY])]
    constants = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in weights.items()]
    return helper.make_model(helper.make_graph(nodes, "tiny", inputs, outputs, constants))


ANATOMY = Anatomy((BlockAnatomy(0, {"q": Matrix((HIDDEN, HEADS * HEAD))}),), None, True, HEADS, KV_HEADS, HEAD)
"""One block with an attention."""


def test_counts_a_tied_head_once_and_one_row_of_embedding_and_rotary_table() -> None:
    found = count(ir.from_proto(_graph()), ANATOMY)
    linear = HIDDEN * INNER + INNER * HIDDEN + HIDDEN * VOCABULARY
    assert found == Work(
        weight_bytes=ITEM * (linear + HIDDEN), row_bytes=ITEM * (HIDDEN + HEAD // 2), linear_flops=2 * linear,
        cache_bytes=2 * KV_HEADS * HEAD * ITEM, attention_flops=4 * HEADS * HEAD,
    )


def test_a_pair_counts_both_factors() -> None:
    dense, pair = count(ir.from_proto(_graph()), ANATOMY), count(ir.from_proto(_graph(rank=3)), ANATOMY)
    saved = HIDDEN * INNER - 3 * (HIDDEN + INNER)
    assert dense.weight_bytes - pair.weight_bytes == ITEM * saved
    assert dense.linear_flops - pair.linear_flops == 2 * saved


def test_a_weight_of_two_linears_is_read_and_multiplied_twice() -> None:
    one, two = count(ir.from_proto(_graph()), ANATOMY), count(ir.from_proto(_graph(shared=True)), ANATOMY)
    assert two.weight_bytes - one.weight_bytes == ITEM * INNER * HIDDEN
    assert two.linear_flops - one.linear_flops == 2 * INNER * HIDDEN


def test_decoding_reads_weights_once_per_batch_and_the_cache_once_per_row() -> None:
    work = Work(weight_bytes=1000, row_bytes=10, linear_flops=0, cache_bytes=2, attention_flops=0)
    assert work.decode_bytes(Workload(prompt=100, batch=1, tokens=20)) == 1000 + 10 + 2 * 110
    assert work.decode_bytes(Workload(prompt=100, batch=4, tokens=20)) == 1000 + 4 * (10 + 2 * 110)


def test_reading_a_prompt_costs_each_token_all_weights_and_a_look_at_those_before() -> None:
    work = Work(weight_bytes=0, row_bytes=0, linear_flops=100, cache_bytes=0, attention_flops=7)
    assert work.prefill_flops(Workload(prompt=3, batch=2, tokens=2)) == 2 * (3 * 100 + (1 + 2 + 3) * 7)


def test_a_graph_without_a_cache_is_refused() -> None:
    model = _graph()
    del model.graph.input[1:]
    with pytest.raises(GraphNotRecognized, match="past_key_values"):
        count(ir.from_proto(model), ANATOMY)


def test_counts_the_real_export_as_its_config_says(dense_5m: Path) -> None:
    found = count_file(dense_5m / "model.onnx")
    hidden, inner, vocabulary, blocks, heads, kv_heads, head = 192, 512, 4096, 12, 6, 2, 32
    block = hidden * (heads + 2 * kv_heads) * head + heads * head * hidden + 3 * hidden * inner
    gains = (2 * blocks + 1) * hidden
    rolls = 5 * 8  # integers by which tokens padded on the left are rolled to the front
    assert found.weight_bytes == 4 * (blocks * block + gains + hidden * vocabulary) + rolls
    assert found.row_bytes == 4 * (hidden + blocks * 2 * head // 2)
    assert found.linear_flops == 2 * (blocks * block + hidden * vocabulary)
    assert found.cache_bytes == 4 * blocks * 2 * kv_heads * head
    assert found.attention_flops == 4 * blocks * heads * head


def test_counts_the_same_decoder_alike_as_another_exporter_wrote_it(tiny_models: Path) -> None:
    folder = tiny_models / "llama" / "optimum"
    config = json.loads((folder / "config.json").read_text())
    found = count_file(folder / "model.onnx")
    hidden, inner, blocks = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    heads, kv_heads, head = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    block = hidden * (2 * heads + 2 * kv_heads) * head + 3 * hidden * inner
    assert found.linear_flops == 2 * (blocks * block + hidden * config["vocab_size"])
    assert found.cache_bytes == 4 * blocks * 2 * kv_heads * head
