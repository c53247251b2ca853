"""The card's metadata as huggingface_hub reads it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from foldrank.reporting.card import model_card

hub = pytest.importorskip("huggingface_hub")
Maker = Callable[..., Path]


def test_the_hub_reads_what_was_measured(make_bundle: Maker) -> None:
    folder = make_bundle()
    measured = json.loads((folder / "reports" / "validate.json").read_text())["quality"]
    data = hub.ModelCard(model_card(folder)).data
    assert {r.metric_type: r.metric_value for r in data.eval_results} == {
        key: measured[key] for key in ("perplexity", "kl_nats", "top1_agreement")}
    assert (data.library_name, data.pipeline_tag, data.base_model) == ("foldrank", "text-generation", None)


def test_a_base_is_named_where_it_is_a_hub_id_and_results_where_there_are_any(make_bundle: Maker) -> None:
    folder = make_bundle({"reports/bench.json": None, "reports/validate.json": None}, plan=False, sealed=False)
    data = hub.ModelCard(model_card(folder, manifest={"source": {"name": "org/model"}})).data
    assert (data.base_model, data.eval_results) == ("org/model", None)
    assert data.to_dict()["base_model_relation"] == "finetune"
