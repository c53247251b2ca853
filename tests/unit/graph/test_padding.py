"""Which sides a graph says its rows may be padded on: operators, inputs, and rolls that follow the mask."""

from pathlib import Path

import onnx_ir as ir
import pytest

from foldrank.graph.safe.load import load_model
from foldrank.graph.view.padding import padding_sides


@pytest.fixture
def rolled(dense_5m: Path) -> ir.Model:
    """GroupQueryAttention with tokens rolled by the mask, as bundles for the CPU are written."""
    return load_model(dense_5m / "model.onnx")


def _reader_of_tokens(model: ir.Model) -> ir.Node:
    ids = next(value for value in model.graph.inputs if value.name == "input_ids")
    return next(use.node for use in ids.uses() if use.node.op_type != "Shape")


def test_rolled_tokens_take_both_sides(rolled: ir.Model) -> None:
    assert padding_sides(rolled) == ("left", "right")


def test_group_query_attention_alone_takes_the_right(rolled: ir.Model) -> None:
    reader = _reader_of_tokens(rolled)
    ids, embedding = reader.inputs[0], next(iter(reader.outputs[0].uses()))
    embedding.node.replace_input_with(embedding.idx, ids)
    assert padding_sides(rolled) == ("right",)


def test_tokens_picked_without_a_look_at_the_mask_take_the_right(rolled: ir.Model) -> None:
    reader = _reader_of_tokens(rolled)
    reader.replace_input_with(1, reader.inputs[0])
    assert padding_sides(rolled) == ("right",)


@pytest.mark.parametrize(("family", "sides"), [("llama", ("left",)), ("mistral", ("left",)), ("gemma2", None)])
def test_graphs_that_are_told_positions_take_the_left(tiny_models: Path, family: str, sides: object) -> None:
    """Without positions a graph makes them from the mask or counts places: it does not tell."""
    model = load_model(tiny_models / family / "optimum" / "model.onnx")
    assert padding_sides(model) == sides


def test_without_a_mask_no_row_can_be_padded(rolled: ir.Model) -> None:
    mask = next(value for value in rolled.graph.inputs if value.name == "attention_mask")
    mask.name = "mask"
    assert padding_sides(rolled) == ()
