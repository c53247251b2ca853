"""`validate --tasks` through lm-eval: both back ends find what ONNX Runtime's logits give, item by item."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foldrank.benchmarks.speed_plans import fold_plan
from foldrank.model.checkpoint import Checkpoint
from foldrank.plans.texts import load_text, load_tokenizer
from foldrank.reports.validate import FORM
from foldrank.runtime.decoding.decoder import OrtDecoder
from foldrank.runtime.providers.provider import Provider
from foldrank.runtime.tasks import measured
from foldrank.runtime.tasks.items import TASKS, Item, made
from foldrank.verbs import tasks
from foldrank.verbs.apply import apply
from foldrank.verbs.validate import validate

pytest.importorskip("lm_eval", reason="needs lm-eval: make consumers")
pytestmark = pytest.mark.timeout(3600)  # lm-eval itself, four times
SEED, ITEMS = 1, 12


@pytest.fixture(scope="module")
def folded(dense_5m: Path, specs_5m: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan = fold_plan(Checkpoint.open(specs_5m, offline=True), 4)
    return apply(dense_5m, plan, tmp_path_factory.mktemp("tasks") / "folded").path


@pytest.fixture(scope="module")
def report(folded: Path, dense_5m: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tasks, "ITEMS", ITEMS)
        return validate(folded, reference=dense_5m, tasks=True, proof=False, tokens=2048, seed=SEED)


def scored(bundle: Path, items: list[Item], *, by_character: bool) -> list[float]:
    """1 where the true continuation is the likeliest, from logits of our own decoder."""
    decoder, tokenizer = OrtDecoder.open(bundle, Provider("cpu")), load_tokenizer(bundle)

    def nats(item: Item, choice: str) -> float:
        whole, prompt = (tokenizer(text).input_ids for text in (item.prompt + choice, item.prompt))
        logits = decoder.prefill(np.asarray([whole], dtype=np.int64))[0].astype(np.float64)
        logs = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True)) - logits.max(
            -1, keepdims=True)
        found = sum(logs[place - 1, whole[place]] for place in range(len(prompt), len(whole)))
        return float(found) / (len(choice) if by_character else 1)

    return [float(np.argmax([nats(item, choice) for choice in item.choices]) == item.gold) for item in items]


def test_both_back_ends_find_what_the_logits_give(report: dict[str, Any], folded: Path, dense_5m: Path) -> None:
    items = made(load_text(None, "validation"), count=ITEMS, length=60, seed=SEED)
    wanted = {
        (task, side): scored(bundle, items[task], by_character=metric == "acc_norm")
        for task, (_, metric) in TASKS.items() for side, bundle in (("dense", dense_5m), ("bundle", folded))
    }
    rows = {(row["task"], row["backend"]): row for row in report["tasks"]["rows"]}
    assert set(rows) == {(task, backend) for task in TASKS for backend in measured.BACKENDS}
    for (task, _), row in rows.items():
        assert row["items"] == ITEMS
        for side in ("dense", "bundle"):
            assert row[side]["accuracy"] == pytest.approx(np.mean(wanted[task, side]))
        assert row["difference"] == pytest.approx(np.mean(wanted[task, "bundle"]) - np.mean(wanted[task, "dense"]))
        assert row["ci95"][0] <= row["difference"] <= row["ci95"][1]
    assert report["tasks"]["missing"] == {}


def test_answers_are_compared_with_dense_token_by_token(report: dict[str, Any]) -> None:
    chat = report["tasks"]["chat"]
    assert chat["questions"] == 8
    assert 0 <= chat["equal"] < 1
    assert 0 <= chat["prefix_tokens"] < chat["tokens"] / chat["questions"]
    assert all(sample["dense"] != sample["bundle"] for sample in chat["samples"] if chat["equal"] == 0)


def test_the_report_is_read_back(report: dict[str, Any]) -> None:
    assert FORM.document(FORM.parse(report)) == report
