"""Cells of the table family x exporter (tests/matrix.py): a seeded sample always, all of them in the nightly run."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path

import pytest

pytest.importorskip("torch")
if importlib.util.find_spec("onnxruntime_genai") is None:
    pytest.skip("needs onnxruntime-genai", allow_module_level=True)
from exports import EXPORTERS
from matrix import cell, passes
from nightly import NIGHTLY
from synthetic import Shape, random_decoder, write_graph
from tiny_families import EXPERTS, TINY, save

from foldrank.errors import GraphNotRecognized, SourceError
from foldrank.graph.safe.load import load_model
from foldrank.graph.view.decoder import read_decoder
from foldrank.verbs.export import export
from foldrank.verbs.inspect import inspect
from foldrank.verbs.plan import plan

CELLS = [(family, exporter) for family in TINY for exporter in EXPORTERS]
RESULTS = json.loads(
    (Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "families.json").read_text(encoding="utf-8")
)["cells"]
ROTATED = ("llama", "llama-untied", "mistral", "qwen2", "qwen3", "gemma", "granite", "smollm3", "phi3")
"""Families with an RMS norm before each branch and none behind: one more plan, which rotates the stream."""
CENTRED = ("gpt2", "opt", "gptneox", "gptneox-serial", "falcon", "falcon-grouped", "falcon-alibi")
"""Families with LayerNorms: one more plan, which makes RMS norms of them and rotates the stream."""
KNOWN = {(c["family"], c["exporter"]): c for c in RESULTS if c["dtype"] == "fp32"}
_RNG = random.Random(11)
SAMPLE = _RNG.sample([c for c in CELLS if c[1] == "genai" and KNOWN.get(c, {}).get("status") == "proved"], 1)
"""Exports of the model builder take seconds, those of transformers half a minute: test_torch_exports has one."""


def same_as_recorded(family: str, exporter: str, folder: Path) -> None:
    """The cell comes out as the committed file says: proved, or not to be had."""
    found = cell(family, exporter, "fp32", folder)
    assert found["status"] != "failed", found["reason"]
    assert found["status"] == KNOWN[family, exporter]["status"], found
    if found["status"] == "proved":
        assert len(found["plans"]) == 14 + (family in ROTATED) + (family in CENTRED)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "exporter"), SAMPLE)
def test_a_sample_of_cells_computes_what_the_plans_say(family: str, exporter: str, tmp_path: Path) -> None:
    same_as_recorded(family, exporter, tmp_path)


@pytest.mark.slow
@NIGHTLY
@pytest.mark.parametrize(("family", "exporter"), CELLS)
def test_every_cell_computes_what_the_plans_say(family: str, exporter: str, tmp_path: Path) -> None:
    if (family, exporter) not in KNOWN:
        pytest.skip("not among the recorded cells")
    same_as_recorded(family, exporter, tmp_path)


def test_a_cell_with_a_fault_of_one_percent_does_not_pass() -> None:
    good = {"prefill_error": 1e-6, "cached_error": 1e-6, "padded_error": None, "argmax": 1.0, "kl_nats": 1e-9}
    assert passes(good, "fp32")
    assert passes(good, "fp16")
    assert not passes({**good, "cached_error": 0.01}, "fp32")
    assert not passes({**good, "argmax": 0.99}, "fp32")
    assert not passes({**good, "kl_nats": 1e-3}, "fp16")


def test_no_recorded_cell_failed() -> None:
    assert [c for c in RESULTS if c["status"] == "failed"] == []


@pytest.mark.parametrize("family", EXPERTS)
def test_a_mixture_of_experts_is_refused_by_name(family: str, tmp_path: Path) -> None:
    checkpoint = save(EXPERTS[family], tmp_path / family)
    for verb in (
        lambda: plan(checkpoint, methods=["dipsvd:keep=0.8"]), lambda: inspect(checkpoint),
        lambda: export(checkpoint, tmp_path / "out", exporter="transformers"),
        lambda: export(checkpoint, tmp_path / "out", exporter="genai"),
    ):
        with pytest.raises(SourceError, match=rf"{EXPERTS[family].architecture} is a mixture of 4 experts"):
            verb()


@pytest.mark.parametrize("scope", ["", "model.layers.1.mlp.experts", "model.layers.1.block_sparse_moe.gate"])
def test_a_graph_of_experts_is_refused_by_name(scope: str, tmp_path: Path) -> None:
    write_graph(random_decoder(Shape(blocks=2)), tmp_path / "model.onnx")
    model = load_model(tmp_path / "model.onnx")
    node = next(node for node in model.graph if "layers.1/mlp" in (node.name or ""))
    if scope:
        node.metadata_props["namespace"] = f": Decoder/{scope}: Linear/linear: aten.linear.default"
        node.metadata_props["pkg.torch.onnx.name_scopes"] = f"['', '{scope}', 'linear']"
    else:
        node.name = "/model/layers.1/moe/experts/MatMul"
    with pytest.raises(GraphNotRecognized, match="is a mixture of experts"):
        read_decoder(model)
