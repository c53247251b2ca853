"""optimum's ORTModelForCausalLM (in an environment of its own), onnxruntime-genai and foldrank itself.

From three exporters, dense and compressed, all continue a prompt with the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from continued import PROMPT, genai_tokens, optimum_python, optimum_rows, optimum_tokens, own_tokens

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
