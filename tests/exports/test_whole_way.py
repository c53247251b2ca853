"""From a checkpoint to a bundle that foreign tools load: the demo's command with less text."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from contract import faults
from nightly import NIGHTLY

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(root: Path, specs_5m: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict]:
    folder = tmp_path_factory.mktemp("whole")
    found = subprocess.run(
        [sys.executable, str(root / "tests" / "support" / "short_bench.py"), "compress", str(specs_5m), "--method",
         "slm:keep=0.75", "--method", "dipsvd:keep=0.8", "--calibration-tokens", "2048",
         "--dense", str(folder / "dense"), "-o", str(folder / "small"), "--json",
         "--save-recipe", str(folder / "recipe.yaml")],
        capture_output=True, text=True, env=ENVIRONMENT, cwd=folder, timeout=540,
    )
    assert found.returncode == 0, found.stderr
    return folder / "small", folder / "dense", json.loads(found.stdout)


def test_the_graph_computes_what_the_plan_says(made: tuple[Path, Path, dict]) -> None:
    graph = made[2]["validate"]["graph"]
    assert graph["passed"] is True
    assert graph["positions"] >= 10_000
    assert graph["max_relative_error"] <= 1e-5
    assert graph["argmax_agreement"] == 1.0


def test_quality_is_measured_and_compression_costs_something(made: tuple[Path, Path, dict]) -> None:
    quality = made[2]["validate"]["quality"]
    assert 1.0 < quality["perplexity_ratio"] < 3.0
    assert 0.0 < quality["kl_nats"] < 2.0
    assert 0.3 < quality["top1_agreement"] < 1.0


def test_the_plan_reaches_what_was_asked(made: tuple[Path, Path, dict]) -> None:
    steps = json.loads((made[0] / "plan" / "plan.json").read_text())["steps"]
    assert [s["method"] for s in steps] == ["slm", "dipsvd"]
    assert steps[0]["keep"] == {"asked": 0.75, "reached": 0.75}
    assert 0.78 < steps[1]["keep"]["reached"] <= 0.8


@pytest.mark.parametrize("which", [0, 1])
def test_the_bundle_has_what_others_rely_on(made: tuple[Path, Path, dict], which: int) -> None:
    assert faults(made[which]) == []


def test_onnxruntime_genai_loads_it_as_it_is(made: tuple[Path, Path, dict]) -> None:
    import onnxruntime_genai as og

    model = og.Model(str(made[0]))
    tokenizer = og.Tokenizer(model)
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=40)
    generator = og.Generator(model, parameters)
    generator.append_tokens(tokenizer.encode("This proposal adds"))
    while not generator.is_done():
        generator.generate_next_token()
    text = tokenizer.decode(generator.get_sequence(0))
    assert text.startswith("This proposal adds")
    assert len(text) > len("This proposal adds") + 10


def test_onnx_runtime_loads_it_as_it_is(made: tuple[Path, Path, dict]) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(made[0] / "model.onnx"), providers=["CPUExecutionProvider"])
    feeds = {"input_ids": np.array([[5, 6, 7]]), "attention_mask": np.ones((1, 3), np.int64)}
    feeds |= {i.name: np.zeros((1, i.shape[1], 0, i.shape[3]), np.float32) for i in session.get_inputs()
              if i.name.startswith("past_key_values.")}
    assert len(feeds) == 2 + 2 * 9
    assert session.run(["logits"], feeds)[0].shape == (1, 3, 4096)


def test_the_report_is_one_page_without_outside_resources(made: tuple[Path, Path, dict]) -> None:
    page = (made[0] / "report.html").read_text()
    assert "<svg" in page or "data:image" in page
    for outside in ('src="http', "src='http", "url(http", '<link rel="stylesheet" href'):
        assert outside not in page


@NIGHTLY
def test_the_saved_recipe_gives_the_same_plan(made: tuple[Path, Path, dict], specs_5m: Path, tmp_path: Path) -> None:
    recipe = made[0].parent / "recipe.yaml"
    subprocess.run([sys.executable, "-m", "foldrank", "plan", str(specs_5m), "--recipe", str(recipe), "-o",
                    str(tmp_path / "plan")], check=True, env=ENVIRONMENT, capture_output=True)
    for name in ("plan.json", "factors.safetensors"):
        assert (tmp_path / "plan" / name).read_bytes() == (made[0] / "plan" / name).read_bytes()


def test_inspect_and_diff_read_it(made: tuple[Path, Path, dict]) -> None:
    import foldrank

    found = foldrank.inspect(made[0])
    assert found["blocks"] == 9
    assert {"pairs": 9, "heads": 2, "head_size": 32}.items() <= found["kv"].items()
    assert any(site["rank"] for site in found["sites"])
    differences = {d["what"]: (d["a"], d["b"]) for d in foldrank.diff(made[1], made[0])["differences"]}
    assert differences["blocks"] == (12, 9)
