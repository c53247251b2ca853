"""The checker that whole ways are held to (contract.py) sees each fault alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from contract import BENCH, PLAN, VALIDATE, faults
from synthetic import Shape, random_decoder, write_bundle

from foldrank.bundle.bundle import seal


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small bundle with a plan and reports of what must be in them, and no more."""
    folder = write_bundle(random_decoder(Shape()), tmp_path_factory.mktemp("contract") / "bundle").path
    edit = {"kind": "low_rank", "site": "block.01.q", "shape": [48, 64], "rank": 3, "factors": ["a", "b"]}
    written = {
        "plan/plan.json": {**dict.fromkeys(PLAN), "edits": [edit]},
        "reports/validate.json": {**{part: dict.fromkeys(keys) for part, keys in VALIDATE.items()},
                                  "verdict": "pass", "gates": []},
        "reports/bench.json": {**{part: [dict.fromkeys(keys)] for part, keys in BENCH.items()},
                               "environment": {}, "null_test": {}},
    }
    for name, data in written.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(data))
    (folder / "README.md").write_text("A card.")
    _sealed(folder)
    return folder


def _sealed(folder: Path) -> None:
    seal(folder, command="export", seed=0, source={}, exporter="genai", dtype="fp32", versions={})


def test_a_whole_bundle_has_no_faults(whole: Path) -> None:
    assert faults(whole) == []


@pytest.mark.parametrize(("name", "change", "says"), [
    ("plan/plan.json", lambda d: d.pop("steps"), "plan/plan.json: it lacks steps"),
    ("plan/plan.json", lambda d: d["edits"][0].pop("rank"), "plan/plan.json: edit 0 lacks rank"),
    ("plan/plan.json", lambda d: d["edits"][0].update(kind="magic"), "plan/plan.json: edit 0 lacks a known kind"),
    ("plan/plan.json", lambda d: d["edits"][0].update(site="1.q"), "plan/plan.json: edit 0 has site '1.q'"),
    ("reports/validate.json", lambda d: d["quality"].pop("kl_nats"), "reports/validate.json: quality lacks kl_nats"),
    ("reports/validate.json", lambda d: d.update(verdict="good"), "reports/validate.json: no verdict, or no gates"),
    ("reports/bench.json", lambda d: d["rows"][0].pop("ttft_ms"), "reports/bench.json: rows[0] lacks ttft_ms"),
    ("reports/bench.json", lambda d: d.pop("null_test"), "reports/bench.json: it lacks null_test"),
    ("genai_config.json", lambda d: d["model"]["decoder"].update(num_hidden_layers=3),
     "model.onnx: inputs besides tokens, mask, positions and the cache that genai is told of"),
    ("genai_config.json", lambda d: d["model"]["decoder"].update(num_hidden_layers=5),
     "model.onnx: fewer cache inputs than genai is told of"),
    ("config.json", lambda d: d.update(num_hidden_layers=3), "config.json: fewer blocks than KV pairs"),
])
def test_a_fault_in_a_file_is_seen(
    whole: Path, tmp_path: Path, name: str, change: Callable[[Any], object], says: str
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "bundle"))
    data = json.loads((folder / name).read_text())
    change(data)
    (folder / name).write_text(json.dumps(data))
    _sealed(folder)
    assert says in faults(folder)


@pytest.mark.parametrize(("damage", "says"), [
    (lambda f: (f / "README.md").unlink(), "README.md: missing"),
    (lambda f: (f / "README.md").write_text("B card."), "manifest.json: README.md is listed otherwise"),
    (lambda f: (f / "extra").write_text(""), "manifest.json: extra is listed or there, not both"),
    (lambda f: (f / "plan" / "plan.json").unlink(), "manifest.json: plan/plan.json is listed or there, not both"),
])
def test_a_file_that_the_manifest_does_not_tell_of_is_seen(
    whole: Path, tmp_path: Path, damage: Callable[[Path], object], says: str
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "bundle"))
    damage(folder)
    assert faults(folder) == [says]
