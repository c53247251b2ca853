"""optimum's ORTModelForCausalLM (in an environment of its own), onnxruntime-genai and foldrank itself.

From three exporters, dense and compressed, all continue a prompt with the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from continued import PROMPT, genai_tokens, optimum_python, optimum_rows, optimum_tokens, own_tokens

from foldrank.model.checkpoint import Checkpoint
from foldrank.verbs.apply import apply
from foldrank.verbs.export import export

Bundles = dict[str, Path]


@pytest.mark.slow
def test_three_consumers_say_the_same_of_three_exporters_bundles_dense_and_compressed(
    tiny_models: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if (python := optimum_python()) is None:
        pytest.skip("no environment with optimum-onnx: make optimum-env")
    made: Bundles = request.getfixturevalue("bundles")
    squeezed: Callable[[Bundles], Bundles] = request.getfixturevalue("squeezed")
    tiny = tiny_models / "llama"
    adopted = {"optimum": export(tiny / "checkpoint", tmp_path / "optimum", exporter="optimum",
                                 graph=tiny / "optimum").path}
    dense = {name: path for name, path in made.items() if not name.endswith("-small")} | adopted
    small = {name: path for name, path in made.items() if name.endswith("-small")} | squeezed(adopted)
    theirs = optimum_tokens(python, [*dense.values(), *small.values()])
    said = []
    for group in (dense, small):
        wanted = own_tokens(next(iter(group.values())))
        said.append(wanted)
        for name, bundle in group.items():
            assert own_tokens(bundle) == wanted, name
            assert genai_tokens(bundle) == wanted, name
            assert theirs[bundle] == wanted, name
    assert said[0] != said[1]


@pytest.mark.slow
def test_a_batch_that_generate_pads_on_the_left_says_what_its_rows_say_alone(bundles: Bundles) -> None:
    """With GroupQueryAttention and with standard operators, dense and compressed."""
    if (python := optimum_python()) is None:
        pytest.skip("no environment with optimum-onnx: make optimum-env")
    rows = [PROMPT, PROMPT[2:5], PROMPT[3:]]
    found = optimum_rows(python, list(bundles.values()), rows)
    for name, bundle in bundles.items():
        assert found[bundle] == [own_tokens(bundle, row) for row in rows], name


@pytest.mark.slow
def test_blocks_without_a_pair_of_the_cache_and_mlps_of_other_widths_load_where_the_dense_bundle_does(
    tiny_models: Path, tmp_path: Path
) -> None:
    """optimum counts pairs by the graph's inputs, whatever config.json says of blocks."""
    if (python := optimum_python()) is None:
        pytest.skip("no environment with optimum-onnx: make optimum-env")
    from torch_model import Model

    bundles: Bundles = {}
    for family, block in (("llama", 0), ("gpt2", 4)):
        tiny = tiny_models / family
        dense = export(tiny / "checkpoint", tmp_path / family, exporter="optimum", graph=tiny / "optimum")
        model = Model(tiny / "checkpoint").drop(block, "attention").drop(2, "mlp").narrow(1, list(range(3, 50)))
        plan = model.plan(Checkpoint.open(tiny / "checkpoint").config_sha256)
        bundles |= {family: dense.path, f"{family} small": apply(dense, plan, tmp_path / f"{family}-small").path}
    theirs = optimum_tokens(python, list(bundles.values()))
    for name, bundle in bundles.items():
        assert theirs[bundle] == genai_tokens(bundle) == own_tokens(bundle), name
    assert theirs[bundles["llama"]] != theirs[bundles["llama small"]]
