"""Rolled tokens: a row padded on any side computes what it computes alone, now and from its cache."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from foldrank.bundle.bundle import Bundle
from foldrank.export.left_padding import take_left_padding
from foldrank.runtime.decoding.decoder import OrtDecoder
from foldrank.runtime.providers.provider import resolve

ROWS = 5
TOKENS = 24
IDS = np.random.default_rng(3).integers(1, 4096, (ROWS, TOKENS + 3))


def _mask() -> np.ndarray:
    """Nothing padded; some on the left; some on the right; all but one token on the left, and on the right."""
    mask = np.ones((ROWS, TOKENS), np.int64)
    mask[1, :7], mask[2, 15:], mask[3, :-1], mask[4, 1:] = 0, 0, 0, 0
    return mask


def test_rows_padded_on_any_side_are_what_they_are_alone(dense_5m: Path) -> None:
    decoder = OrtDecoder.open(dense_5m, resolve("cpu"), threads=1)
    mask = _mask()
    prompt, later = IDS[:, :TOKENS], IDS[:, TOKENS:]
    found = [decoder.prefill(prompt, mask), *(decoder.step(later[:, at : at + 1]) for at in range(3))]
    for row in range(ROWS):
        real = mask[row] == 1
        alone = decoder.prefill(np.concatenate([prompt[row, real], later[row]])[None])[0]
        together = np.concatenate([found[0][row, real], *(step[row] for step in found[1:])])
        assert np.abs(alone - together).max() <= 1e-5 * np.abs(alone).max(), row


def test_what_is_in_the_padding_changes_nothing(dense_5m: Path) -> None:
    decoder = OrtDecoder.open(dense_5m, resolve("cpu"), threads=1)
    mask, prompt = _mask(), IDS[:, :TOKENS]
    other = np.where(mask, prompt, 7)
    first, second = decoder.prefill(prompt, mask), decoder.prefill(other, mask)
    np.testing.assert_array_equal(first[mask == 1], second[mask == 1])


def test_bundle_and_card_say_that_both_sides_are_right(dense_5m: Path) -> None:
    bundle = Bundle.open(dense_5m)
    assert bundle.manifest.padding == ["left", "right"]
    assert "may be padded on the left or on the right" in (bundle.path / "README.md").read_text()


def _graph(operator: str, inputs: tuple[str, ...] = ("input_ids", "attention_mask")) -> onnx.GraphProto:
    ports = [helper.make_tensor_value_info(name, TensorProto.INT64, None) for name in inputs]
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["x"]), helper.make_node(operator, ["x"], ["y"]),
             helper.make_node("MatMul", ["y", "head"], ["logits"])]
    return helper.make_graph(nodes, "g", ports, [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)])


@pytest.mark.parametrize(("graph", "opset"), [
    (_graph("MultiHeadAttention"), 21), (_graph("GroupQueryAttention", ("input_ids",)), 21),
    (_graph("GroupQueryAttention"), 14),
], ids=["attends otherwise", "has no mask", "is too old"])
def test_a_graph_that_needs_no_rolls_or_cannot_have_them_stays(graph: onnx.GraphProto, opset: int) -> None:
    before = graph.SerializeToString()
    assert not take_left_padding(graph, opset)
    assert graph.SerializeToString() == before


def test_positions_are_rolled_with_their_tokens() -> None:
    graph = _graph("GroupQueryAttention", ("input_ids", "attention_mask", "position_ids"))
    graph.node[1].input.append("position_ids")
    assert take_left_padding(graph, 21)
    readers = [[node.op_type for node in graph.node if name in node.input] for name in ("input_ids", "position_ids")]
    assert readers == [["Shape", "GatherElements"], ["GatherElements"]]
