"""Node: onnxruntime-node on a bundle as it lies, transformers.js on a packaged one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from continued import COUNT, PROMPT, own_tokens
from stepping import TOLERANCE, continued, error, in_node, with_onnxruntime

from foldrank.plans.texts import load_tokenizer
from foldrank.verbs.package import package


@pytest.mark.slow
def test_onnxruntime_node_computes_what_onnx_runtime_does(node_modules: Path, bundles: dict[str, Path]) -> None:
    found = in_node("node_ort.mjs", node_modules, json.dumps(PROMPT), str(COUNT), *map(str, bundles.values()))
    for name, bundle in bundles.items():
        tokens, logits = continued(*with_onnxruntime(bundle), PROMPT, COUNT)
        last = logits[0, -1]
        assert error(last, np.array(found[str(bundle)]["logits"])) < TOLERANCE < error(last, last * 1.01), name
        assert found[str(bundle)]["tokens"] == tokens, name


@pytest.mark.slow
def test_transformers_js_continues_as_onnx_runtime_does(
    node_modules: Path, bundles: dict[str, Path], tmp_path: Path
) -> None:
    for name, bundle in bundles.items():
        package(bundle, tmp_path / name, format="transformers.js")
    arguments = (str(tmp_path), json.dumps(PROMPT), str(COUNT), *bundles)
    found = in_node("node_transformers.mjs", node_modules, *arguments)
    for name, bundle in bundles.items():
        assert found[name]["tokens"] == own_tokens(bundle), name
        assert found[name]["batch"] == [own_tokens(bundle), own_tokens(bundle, PROMPT[2:])], name  # padded on the left
        assert found[name]["own"] == load_tokenizer(bundle)("Hello ")["input_ids"], name
        assert found[name]["text"].startswith("Hello "), name


@pytest.mark.slow
def test_transformers_js_reads_weights_in_several_files_and_a_config_of_multi_query(
    node_modules: Path, bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from foldrank.bundle.bundle import Bundle, seal
    from foldrank.verbs.formats import transformers_js

    folder = tmp_path / "bundle"
    shutil.copytree(bundles["genai"], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "multi_query": True}))
    old = Bundle.open(bundles["genai"]).manifest
    seal(folder, command="export", seed=0, source=old.source, exporter="genai", dtype="fp32", versions={})
    monkeypatch.setattr(transformers_js, "SHARD_BYTES", 200_000)
    package(folder, tmp_path / "js" / "several", format="transformers.js")
    assert len(list((tmp_path / "js" / "several" / "onnx").glob("model.onnx_data*"))) > 3
    found = in_node("node_transformers.mjs", node_modules, str(tmp_path / "js"), json.dumps(PROMPT), str(COUNT),
                    "several")
    assert found["several"]["tokens"] == own_tokens(bundles["genai"])
