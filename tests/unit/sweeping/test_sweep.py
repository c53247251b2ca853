"""A sweep in processes: what is finished is not done again, what was killed goes on, what fails ends nothing else."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from synthetic.bundles import write_bundle
from synthetic.decoders import Shape, random_decoder

from foldrank.bundle.bundle import Bundle
from foldrank.recipe import Recipe
from foldrank.verbs.sweep import sweep
from foldrank.verbs.sweeping import local

RECIPE = Recipe(methods=("slm:keep=0.75",))
WORKER = '''
import json, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
task = json.loads((folder / "task.json").read_text())
(folder / "tries").write_text(str(int((folder / "tries").read_text()) + 1 if (folder / "tries").exists() else 1))
keep = task["changes"]["keep"]
if keep == "0.1":
    (folder / "failed.json").write_text(json.dumps({"error": "too little"}))
    sys.exit(3)
if keep == "0.2":
    sys.exit(70)
if keep == "0.3":
    time.sleep(600)
(folder / "result.json").write_text(json.dumps({
    "key": task["key"], "changes": task["changes"], "methods": task["recipe"]["methods"],
    "bytes": int(1000 * float(keep)),
    "quality": {"kl_nats": 1 - float(keep), "perplexity_ratio": 1.0, "top1_agreement": 1.0}, "verdict": "pass",
    "graph_passed": True, "plan_sha256": "0", "seconds": 1.0}))
'''


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_bundle(random_decoder(Shape()), tmp_path / "dense")


@pytest.fixture(autouse=True)
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of the program that plans: one that notes its tries and makes its figures up."""
    (tmp_path / "made_up_worker.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(local, "_PROGRAM", "made_up_worker")


def swept(bundle: Bundle, tmp_path: Path, keeps: str, **more: Any) -> dict[str, Any]:
    return sweep(more.pop("recipe", RECIPE), "model", tmp_path / "out", grid=[f"keep={keeps}"], dense=bundle.path,
                 **more)


def tries(tmp_path: Path) -> dict[str, int]:
    return {path.parent.name.split("-")[0]: int(path.read_text()) for path in (tmp_path / "out").rglob("tries")}


def test_what_is_finished_stays_and_what_failed_is_tried_again(bundle: Bundle, tmp_path: Path) -> None:
    found = swept(bundle, tmp_path, "0.9,0.1,0.2,0.8", jobs=2)
    assert sorted(found["failed"].values())[1] == "too little"
    assert "without a word" in sorted(found["failed"].values())[0]
    assert [one["changes"]["keep"] for one in found["candidates"]] == ["0.9", "0.8"]
    assert [name.split("-")[0] for name in found["front"]] == ["keep=0.8", "keep=0.9"]
    again = swept(bundle, tmp_path, "0.9,0.1,0.2,0.8,0.7")
    assert again["done_before"] == 2
    assert tries(tmp_path) == {"keep=0.9": 1, "keep=0.8": 1, "keep=0.1": 2, "keep=0.2": 2, "keep=0.7": 1}
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"results.json", "front.md", "candidates"}


def test_another_seed_model_or_text_is_another_result(bundle: Bundle, tmp_path: Path) -> None:
    swept(bundle, tmp_path, "0.9")
    assert swept(bundle, tmp_path, "0.9")["done_before"] == 1
    assert swept(bundle, tmp_path, "0.9", recipe=Recipe(methods=RECIPE.methods, seed=5))["done_before"] == 0
    text = tmp_path / "text.txt"
    for words in ("one", "two"):
        text.write_text(words)
        found = swept(bundle, tmp_path, "0.9", recipe=Recipe(methods=RECIPE.methods, text=str(text)))
        assert found["done_before"] == 0


def test_an_interrupt_ends_the_children_and_the_next_run_goes_on(bundle: Bundle, tmp_path: Path) -> None:
    program = ("import sys; from foldrank.verbs.sweeping import local; local._PROGRAM = 'made_up_worker'; "
               "from foldrank.cli.main import main; main(sys.argv[1:])")
    (tmp_path / "recipe.yaml").write_text("model: model\nmethods: ['slm:keep=0.75']\n")
    arguments = ["sweep", str(tmp_path / "recipe.yaml"), "--grid", "keep=0.9,0.3", "--dense",
                 str(bundle.path), "-o", str(tmp_path / "out"), "-q"]
    child = subprocess.Popen([sys.executable, "-c", program, *arguments], stderr=subprocess.PIPE, env=dict(os.environ))
    end = time.monotonic() + 120
    while tries(tmp_path) != {"keep=0.9": 1, "keep=0.3": 1} and time.monotonic() < end:
        time.sleep(0.1)
    child.send_signal(signal.SIGTERM)
    assert child.wait(60) == 130
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert f"made_up_worker {tmp_path}" not in left
    assert json.loads(next((tmp_path / "out").rglob("result.json")).read_text())["changes"] == {"keep": "0.9"}
    assert swept(bundle, tmp_path, "0.9", recipe=Recipe(methods=RECIPE.methods, model="model"))["done_before"] == 1
