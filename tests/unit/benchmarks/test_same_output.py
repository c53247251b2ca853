"""What a record of output sees, and what it leaves to versions."""

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_families import TINY


@pytest.fixture
def campaign(root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of benchmarks/campaigns by name: they are programs, in no package."""
    monkeypatch.syspath_prepend(root / "benchmarks" / "campaigns")

    def module(name: str) -> ModuleType:
        return importlib.import_module(name)

    return module


def graph(path: Path, *, name: str = "main_000000000001", version: str = "0.1.0", last: float = 2.0) -> Path:
    weight = numpy_helper.from_array(np.array([1.0, last], np.float32), "w")
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in "xy"]
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    made = helper.make_model(helper.make_graph(nodes, name, ports[:1], ports[1:], [weight]),
                             producer_name="foldrank", producer_version=version)
    onnx.save(made, path)
    return path


@pytest.mark.parametrize(("change", "seen"), [
    ({"name": "main_fffffffffff2"}, False), ({"version": "0.12.0"}, False), ({"name": "other_000000000001"}, True),
    ({"last": float(np.nextafter(np.float32(2), np.float32(3)))}, True),
])
def test_a_graph_is_told_by_every_bit_but_its_version_and_its_hash(
    campaign: Any, tmp_path: Path, change: dict[str, Any], seen: bool
) -> None:
    digest = campaign("output_digests").of_file
    before, after = digest(graph(tmp_path / "a.onnx"), "model.onnx"), digest(graph(tmp_path / "b.onnx", **change),
                                                                           "model.onnx")
    assert (before != after) is seen


PLAN = {"schema": "foldrank.plan/1", "digest": "a", "versions": {"foldrank": "0.1.0"}, "edits": [{"rank": 3}]}
FILE = {"sha256": "a", "bytes": 3}
MANIFEST = {"versions": {}, "command": "apply", "files": {"model.onnx": FILE},
            "weights": {"files": {"model.onnx": "a"}, "sites": {"block.00.q": "b"}}}


@pytest.mark.parametrize(("name", "before", "after", "seen"), [
    ("plan.json", PLAN, {**PLAN, "digest": "b", "versions": {}}, False),
    ("plan/plan.json", PLAN, {**PLAN, "edits": [{"rank": 4}]}, True),
    ("manifest.json", MANIFEST, {**MANIFEST, "versions": {"a": "3"}, "files": {"model.onnx": {"sha256": "c"}}}, False),
    ("manifest.json", MANIFEST, {**MANIFEST, "files": {"model.onnx": FILE, "config.json": FILE}}, True),
    ("manifest.json", MANIFEST, {**MANIFEST, "weights": {"files": {"model.onnx": "a"}, "sites": {}}}, True),
    ("reports/receipts.json", [{"pass": "a"}], {"schema": "foldrank.receipts/1", "rows": [{"pass": "a"}]}, False),
    ("reports/validate.json", {"verdict": "pass"}, {"schema": "1", "verdict": "fail"}, True),
    ("config.json", {"a": 1}, {"a": 2}, True),
])
def test_json_is_told_by_all_but_versions_and_what_follows_from_them(
    campaign: Any, tmp_path: Path, name: str, before: Any, after: Any, seen: bool
) -> None:
    digests = []
    for number, value in enumerate((before, after)):
        path = tmp_path / str(number) / name
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(value))
        digests.append(campaign("output_digests").digests(tmp_path / str(number))[name])
    assert (digests[0] != digests[1]) is seen


def record(path: Path, *cells: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in ({"sources": "s"}, *cells)) + '{"cell": "cut sho')
    return path


def test_compare_names_the_cell_and_the_file(
    campaign: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {"cell": "llama / genai / fold", "files": {"model.onnx": "a", "config.json": "b"}}
    plan = {"cell": "llama / plan / all", "files": {}}
    old = record(tmp_path / "old.json", made, plan)
    compare = campaign("same_output").compare
    assert compare(old, record(tmp_path / "same.json", plan, made)) == 0
    assert capsys.readouterr().out == "2 cells, all the same\n"
    other = {**made, "files": {"model.onnx": "A", "vocab.txt": "c"}}
    assert compare(old, record(tmp_path / "new.json", other, {"cell": "x", "files": {}})) == 1
    assert capsys.readouterr().out.splitlines() == [
        "llama / genai / fold: config.json is gone", "llama / genai / fold: model.onnx differs",
        "llama / genai / fold: vocab.txt is new", "llama / plan / all: not in new.json", "x: not in old.json",
    ]
    assert (compare(old, old, ["llama"]), compare(old, old, ["gpt2"])) == (0, 2)
    assert capsys.readouterr().out == "2 cells, all the same\n"
    refused = record(tmp_path / "refused.json", {"cell": made["cell"], "raised": "PassRefused: no"})
    assert compare(record(tmp_path / "one.json", made), refused) == 1
    assert capsys.readouterr().out == "llama / genai / fold: was made, is PassRefused: no\n"


def test_every_family_has_plans_and_no_cell_stands_twice(campaign: Any) -> None:
    families = campaign("output_cells").families(slow=("optimum", "transformers"))
    cells = [cell for family in families for cell in family.cells()]
    assert len(cells) == len(set(cells))
    assert {family.name for family in families} >= set(TINY)
    assert all({"few bits", "all"} <= family.plans.keys() for family in families if family.name in TINY)
