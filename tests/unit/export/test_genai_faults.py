"""What the model builder gets wrong is set right or refused: windows it leaves out, a scale it rounds."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from foldrank.errors import ExportError
from foldrank.export.genai import check_windows, correct_scale


def checkpoint(**config: Any) -> Any:
    return SimpleNamespace(path="somewhere", blocks=2, text_config={"max_position_embeddings": 64, **config})


def write(folder: Path, *nodes: onnx.NodeProto) -> Path:
    graph = helper.make_graph(nodes, "g", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])])
    onnx.save(helper.make_model(graph), folder / "model.onnx")
    return folder / "model.onnx"


def attention(*windows: int) -> list[onnx.NodeProto]:
    return [helper.make_node("GroupQueryAttention", [], ["y"], domain="com.microsoft", local_window_size=w)
            for w in windows]


def scaled(constant: float) -> list[onnx.NodeProto]:
    value = helper.make_node("Constant", [], ["scale"], value=numpy_helper.from_array(np.float32(constant)))
    return [value, helper.make_node("Mul", ["x", "scale"], ["y"], name="/model/embed_tokens/Mul")]


def test_a_graph_whose_blocks_see_beyond_their_window_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="2 blocks attend to 8 tokens, the builder wrote 0 such; --exporter trans"):
        check_windows(write(tmp_path, *attention(-1, -1)), checkpoint(sliding_window=8))
    kinds = ["sliding_attention", "full_attention"]
    with pytest.raises(ExportError, match="1 blocks attend to 8 tokens, the builder wrote 2 such"):
        check_windows(write(tmp_path, *attention(8, 8)), checkpoint(sliding_window=8, layer_types=kinds))


@pytest.mark.parametrize(("windows", "config"), [
    ((8, 8), {"sliding_window": 8}),
    ((8, -1), {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}),
    ((-1, -1), {"sliding_window": None}), ((-1, -1), {}), ((-1, -1), {"sliding_window": 64}),
    ((-1, -1), {"sliding_window": 8, "use_sliding_window": False}),
])
def test_windows_that_are_written_or_never_reached_pass(
    windows: tuple[int, ...], config: dict[str, Any], tmp_path: Path
) -> None:
    check_windows(write(tmp_path, *attention(*windows)), checkpoint(**config))


@pytest.mark.parametrize(("written", "wanted"), [(6.32, 40**0.5), (3.0, 3.0)])
def test_the_scale_of_embeddings_is_exact_and_other_multipliers_stay(
    written: float, wanted: float, tmp_path: Path
) -> None:
    path = write(tmp_path, *scaled(written))
    correct_scale(path, checkpoint(hidden_size=40))
    value = onnx.load(path).graph.node[0].attribute[0].t
    assert numpy_helper.to_array(value) == np.float32(wanted)
