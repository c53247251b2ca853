"""The results program and its page: resumed cells, figures against plain PyTorch, and the page against its JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tiny_families import TINY, save

from foldrank.benchmarks import quality, quality_decode, quality_judge, quality_recovered
from foldrank.benchmarks.quality import main, run_cell
from foldrank.benchmarks.quality_cells import Cell, cells
from foldrank.benchmarks.quality_judge import Judge
from foldrank.benchmarks.quality_page import page, summary
from foldrank.benchmarks.quality_picture import picture
from foldrank.benchmarks.quality_recovered import Recoveries
from foldrank.bundle.bundle import Bundle
from foldrank.graph.safe.load import load_model
from foldrank.planfile.plan import Plan
from foldrank.plans.calibration import calibration_windows
from foldrank.reports.bench import Speedup


def test_a_cell_asks_for_its_keep() -> None:
    assert Cell("m", "slm", 0.9, 0).request == "slm:keep=0.9"
    assert Cell("m", "dipsvd:ratios=uniform", 0.5, 0).request == "dipsvd:ratios=uniform,keep=0.5"


def test_every_method_comes_before_a_second_seed() -> None:
    order = list(cells(["m", "n"], ["a", "b"], [0.9], [0, 1]))
    assert [cell.seed for cell in order] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert len({cell.key for cell in order}) == 8


def test_figures_are_those_of_the_models_own_logits(specs_5m: Path) -> None:
    from foldrank.model.checkpoint import Checkpoint
    from foldrank.plans.models.decoder import load_decoder

    decoder = load_decoder(Checkpoint.open(specs_5m))
    ids = np.random.default_rng(0).integers(0, 4096, size=(2, 12))
    assert Judge(decoder, ids).figures(decoder) == {
        "perplexity_ratio": 1.0, "kl_nats": 0.0, "top1_agreement": 1.0}
    found = Judge(decoder, ids).figures(decoder.with_blocks(decoder.blocks[:-1]))
    model = decoder.model.float()  # the decoder keeps blocks as they are stored, and widens what it runs
    logs = []
    for layers in (model.model.layers, model.model.layers[:-1]):
        whole = model.model.layers
        model.model.layers = layers
        with torch.no_grad():
            logs.append(model(input_ids=torch.from_numpy(ids), use_cache=False).logits[:, :-1].double().log_softmax(-1))
        model.model.layers = whole
    dense, small = (part.numpy() for part in logs)
    nats = np.take_along_axis(dense - small, ids[:, 1:, None], axis=-1).mean()
    assert found["perplexity_ratio"] == pytest.approx(np.exp(nats), rel=1e-4)
    assert found["kl_nats"] == pytest.approx((np.exp(dense) * (dense - small)).sum(-1).mean(), rel=1e-4)
    assert found["top1_agreement"] == (dense.argmax(-1) == small.argmax(-1)).mean()


def test_cells_that_are_there_are_not_run_again(
    specs_5m: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality_judge, "TOKENS", 1024)
    monkeypatch.setattr(quality, "calibration_windows", lambda checkpoint, text, tokens, seed: calibration_windows(
        checkpoint, text, 1024, seed))
    path = tmp_path / "quality.json"
    key = Cell(specs_5m.name, "slm", 0.9, 0).key
    path.write_text(json.dumps({"cells": {key: {"perplexity_ratio": 7.0}}}))
    found = CliRunner().invoke(
        main, [str(specs_5m), "-o", str(path), "--method", "slm", "--keep", "0.9", "--keep", "0.01", "--seed", "0"])
    assert found.exit_code == 0, found.output
    made = json.loads(path.read_text())["cells"]
    assert made[key] == {"perplexity_ratio": 7.0}
    assert "cannot be reached" in made[Cell(specs_5m.name, "slm", 0.01, 0).key]["refused"]


@pytest.fixture(scope="module")
def eight_blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of as many blocks."""
    shape = replace(TINY["llama"], options={**TINY["llama"].options, "num_hidden_layers": 8})
    return save(shape, tmp_path_factory.mktemp("quality") / "eight")


def test_a_trained_cell_holds_what_was_before_and_judges_what_was_stored(
    eight_blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from foldrank.model.checkpoint import Checkpoint
    from foldrank.plans.models.decoder import load_decoder

    checkpoint = Checkpoint.open(eight_blocks)
    decoder = load_decoder(checkpoint)
    dense = Judge(decoder, np.random.default_rng(0).integers(0, 256, size=(4, 64)))
    cell = Cell("eight", "svd", 0.6, 0, "factors")
    recoveries = Recoveries(checkpoint, dense, None, 16_384, 12)
    found = run_cell(cell, checkpoint, dense, recoveries, tmp_path)
    plain = run_cell(Cell("eight", "svd", 0.6, 0), checkpoint, dense)
    assert found["before"]["kl_nats"] == plain["kl_nats"]
    assert found["kept"] == plain["kept"]
    assert found["kl_nats"] < 0.9 * plain["kl_nats"]
    assert (found["recovery_steps"], found["recovery_tokens"]) == (12, 16_384)
    assert cell.key.endswith("recover=factors")
    kept = Plan.read(tmp_path / Cell("eight", "svd", 0.6, 0).file_name)  # the plan as it was before training
    assert "recover" not in [step.method for step in kept.document.steps]
    monkeypatch.setattr(quality_recovered, "recover", None)  # an equal plan is not trained again
    again = run_cell(cell, checkpoint, dense, recoveries)
    assert {k: again[k] for k in ("kl_nats", "recovery_s")} == {k: found[k] for k in ("kl_nats", "recovery_s")}


def entry(method: str, keep: float, seed: int, **figures: float) -> dict[str, object]:
    whole = {"kl_nats": 0.1, "top1_agreement": 0.9, "kept": keep, "planning_s": 2.0, **figures}
    return {"model": "m", "method": method, "keep": keep, "seed": seed, "recover": None, **whole}


def test_the_page_shows_medians_and_what_is_out_of_reach(tmp_path: Path) -> None:
    rows = [entry("a", 0.9, seed, perplexity_ratio=1.1 + seed) for seed in range(3)]
    rows.append({"model": "m", "method": "b", "keep": 0.9, "seed": 0, "recover": None, "refused": "no"})
    trained = {**entry("a", 0.9, 0, perplexity_ratio=1.0), "recover": "lora", "before": rows[0],
               "recovery_tokens": 4096, "recovery_steps": 30, "recovery_s": 9.0}
    rows.append({"model": "m", "method": "b", "keep": 0.9, "seed": 0, "recover": "lora", "refused": "no"})
    rows[0] |= {"decode": {"ratio": 1.2, "ci95": [1.1, 1.3], "ideal": 1.25, "cpu": "C"}, "bytes_ratio": 0.75}
    rows += [trained, {**trained, "seed": 1, "recovery_s": None, "perplexity_ratio": 1.02}]
    for row in rows:
        row["where"] = {"cpu": "C", "threads": 1, "device": "G" if row["method"] == "b" else "cpu"}
    found = {"cells": {str(i): row for i, row in enumerate(rows)},
             "held_out": {"text": "t", "tokens": 20480}, "dense": {"m": {"perplexity": 7.0, "window": 256}}}
    text = page(found)
    assert "| `a` | 2.100 (1.100 to 3.100) |" in text
    assert "| `b` | out of reach |" in text
    assert "Planning, seconds, on C, 1 thread: a; on G: b:" in text
    assert "After recovery, 30 steps on 4,096 tokens (2 of 2 cells). Perplexity over dense:" in text
    assert text.count("| `a` after `lora` | 1.010 (1.000 to 1.020) |") == 1
    assert "times dense [95 % interval] of ideal, on C; graphs" in text
    assert "| `a` | 1.20 [1.10, 1.30] of 1.25 |" in text
    assert "| `a` | 0.750 |" in text
    picture(found, tmp_path / "p.svg")
    drawn = (tmp_path / "p.svg").read_text()
    assert all(f"<!-- {title} -->" in drawn for title in ("m", "m, after recovery", "loss added, nats a token"))


def test_the_summary_has_the_best_of_each_kind() -> None:
    rows = [entry("auto", 0.9, 0, perplexity_ratio=1.05), entry("svd", 0.9, 0, perplexity_ratio=2.0),
            entry("sleb", 0.9, 0, perplexity_ratio=1.5), entry("sleb", 0.9, 1, perplexity_ratio=1.7),
            entry("dipsvd", 0.9, 0, perplexity_ratio=1.3), entry("dipsvd:align=2", 0.9, 0, perplexity_ratio=1.2),
            {**entry("svd", 0.9, 0, perplexity_ratio=1.4), "recover": "lora"},
            {**entry("svd", 0.9, 1, perplexity_ratio=1.0), "recover": "factors"}]
    found = {"cells": {str(i): row for i, row in enumerate(rows)}}
    assert summary(found).splitlines()[2:] == ["| m | 0.9 | 1.600 (`sleb`) |  | 1.200 |  | 1.050 |"]
    assert summary(found, recovered=True).splitlines()[2:] == ["| m | 0.9 | 1.000 (`svd`) |  |  |  |  |"]


def test_the_committed_page_is_that_of_the_committed_results(root: Path) -> None:
    results = root / "benchmarks" / "results" / "quality.json"
    if not results.exists():
        assert not (root / "docs" / "quality.md").exists()
        return
    assert (root / "docs" / "quality.md").read_text() == page(json.loads(results.read_text()))


def test_only_cells_that_are_there_and_were_not_timed_are_timed_and_equal_graphs_once(
    eight_blocks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, plans = eight_blocks, tmp_path / "plans"
    path, timed = tmp_path / "quality.json", []
    methods = ("slm", "unified_skip", "sleb", "laco", "svd:align=2", "shortgpt")
    keys = {method: Cell(model.name, method, 0.9, 0).key for method in methods}
    cells = {keys[method]: {"kept": 0.9} for method in methods[:-1]}
    cells |= {keys["sleb"]: {"decode": {"ratio": 7.0}}, keys["laco"]: {"refused": "no"}}
    path.write_text(json.dumps({"cells": cells}))

    def bench(small: Bundle, *_others: object, **_named: object) -> SimpleNamespace:
        timed.append(len(load_model(small.model).graph))
        entry = Speedup(phase="decode", engine="own", prompt_tokens=128, ratio=1.5 + len(timed), ci95=[1.0, 2.0],
                        ideal=1.6, realised_over_ideal=0.9, stable=True)
        return SimpleNamespace(speedups=[replace(entry, phase="prefill", ratio=9.0), entry])

    monkeypatch.setattr(quality_decode, "paired_bench", bench)
    asked = [str(model), "-o", str(path), "--keep", "0.9", "--plans", str(plans),
             *(part for method in methods for part in ("--method", method))]
    found = CliRunner().invoke(quality_decode.main, [*asked, "--plan-only"], catch_exceptions=False)
    assert found.exit_code == 0
    assert json.loads(path.read_text())["cells"] == cells
    assert len(list(plans.iterdir())) == 3
    monkeypatch.setattr(quality_decode, "make_plan", None)  # they are there
    CliRunner().invoke(quality_decode.main, asked, catch_exceptions=False)
    made = json.loads(path.read_text())["cells"]
    assert len(timed) == 2  # both depth methods leave seven blocks of eight
    assert timed[0] < timed[1]
    assert made[keys["slm"]]["decode"] == made[keys["unified_skip"]]["decode"]
    assert made[keys["slm"]]["decode"]["timed"] == keys["slm"]
    assert (made[keys["slm"]]["decode"]["ratio"], made[keys["svd:align=2"]]["decode"]["ratio"]) == (2.5, 3.5)
    assert 0.85 < made[keys["slm"]]["bytes_ratio"] < 0.95
    assert {name: made[keys[name]] for name in ("sleb", "laco")} == {
        "sleb": cells[keys["sleb"]], "laco": cells[keys["laco"]]}
