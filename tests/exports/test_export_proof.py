"""A fresh export is proved before it is a bundle: what the builder leaves out is refused, what it writes well passes.
"""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from foldrank.bundle.bundle import Bundle
from foldrank.errors import NotWritable
from foldrank.export.exporters import run_exporter
from foldrank.verbs.export import export
from foldrank.verbs.export_window import window_of


def _scaled(source: Path, folder: Path, rope: dict[str, Any]) -> Path:
    model = Path(shutil.copytree(source, folder / "model"))
    config = json.loads((model / "config.json").read_text())
    config.pop("rope_scaling", None)
    config["rope_parameters"] = {"rope_theta": config.get("rope_theta", 10000.0), **rope}
    (model / "config.json").write_text(json.dumps(config))
    return model


def test_scaling_that_the_builder_leaves_out_is_refused_with_its_size(tiny_models: Path, tmp_path: Path) -> None:
    model = _scaled(tiny_models / "llama" / "checkpoint", tmp_path, {"rope_type": "linear", "factor": 4.0})
    with pytest.raises(NotWritable, match=r"not the checkpoint's model against PyTorch on 32 tokens: "
                                          r"max_relative_error .*limit 1e-05; --exporter transformers"):
        export(model, tmp_path / "out", exporter="genai")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_a_sound_export_says_how_far_it_was_proved(dense_5m: Path) -> None:
    bundle = Bundle.open(dense_5m)
    proof = bundle.manifest.export_proof
    assert proof is not None
    assert (proof["passed"], proof["tokens"], proof["tensors"]) == (True, 256, 14)
    assert 0 < float(proof["value"] or 0) <= 1e-5
    assert "dense export: `proved against PyTorch on" in (bundle.path / "README.md").read_text()


def test_a_check_that_refuses_makes_auto_take_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from foldrank.export import exporters

    def check(exporter: str, folder: Path) -> None:
        assert (folder / "graph").is_file()
        if exporter == "genai":
            raise NotWritable("model", "leaves scaling out", "take another")

    def fill(_checkpoint: Any, folder: Path) -> dict[str, Any]:
        (folder / "graph").write_text("graph")
        return {}

    monkeypatch.setattr(exporters, "_named", lambda _name: fill)
    made = run_exporter("auto", SimpleNamespace(architecture="LlamaForCausalLM"), tmp_path, check=check)  # type: ignore[arg-type]
    assert (made.exporter, made.reason) == ("transformers", "leaves scaling out")


@pytest.mark.parametrize(("config", "long", "scaled_from"), [
    ({"rope_scaling": {"original_max_position_embeddings": 1024}}, 1056, 1024),
    ({"original_max_position_embeddings": 8192}, 256, 8192), ({"sliding_window": 512}, 544, None), ({}, 256, None),
])
def test_windows_reach_past_scaling_and_sliding_where_that_is_cheap(
    config: dict[str, Any], long: int, scaled_from: int | None
) -> None:
    text = {"max_position_embeddings": 32768, "vocab_size": 260, **config}
    found = window_of(SimpleNamespace(text_config=text, tensors={}))  # type: ignore[arg-type]
    assert (found.long, found.scaled_from) == (long, scaled_from)
