"""Forms of attention that an exporter may leave out: `auto` ends with one that writes them, proved against PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from nightly import NIGHTLY
from tiny_families import OWN_HEAD, SIZES, TINY, Tiny, save

from foldrank.errors import NotWritable
from foldrank.verbs.export import export

pytest.importorskip("onnxruntime_genai")
pytest.importorskip("transformers.exporters")
_BLOCKS = {"num_hidden_layers": 2}
_PAST = {"max_position_embeddings": 512}
"""A context beyond the 128 positions that scaling starts from."""


def _llama(**settings: Any) -> Tiny:
    return Tiny("LlamaForCausalLM", "LlamaConfig", {**SIZES, **_BLOCKS, **settings})


def _rope(kind: str, **settings: Any) -> dict[str, Any]:
    """As transformers 5 writes it, and nowhere else."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **settings}}


_FACTORS = {"short_factor": [1 + i / 10 for i in range(8)], "long_factor": [2.0 + i for i in range(8)]}
SCALED: dict[str, tuple[Tiny, str, int | None]] = {
    "linear": (_llama(**_rope("linear", factor=4.0)), "transformers", None),
    "dynamic": (_llama(**_rope("dynamic", factor=4.0)), "genai", None),
    "llama3": (_llama(**_PAST, **_rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                       original_max_position_embeddings=128)), "genai", 128),
    "yarn": (Tiny("Qwen2ForCausalLM", "Qwen2Config", {
        **OWN_HEAD, **_BLOCKS, **_PAST, **_rope("yarn", factor=4.0, original_max_position_embeddings=128)}),
        "transformers", 128),
    "longrope": (Tiny("Phi3ForCausalLM", "Phi3Config", {
        **OWN_HEAD, **_BLOCKS, **_PAST, "original_max_position_embeddings": 128, **_rope("longrope", **_FACTORS)}),
        "transformers", 128),
    "part of a head": (_llama(**_rope("default", partial_rotary_factor=0.5)), "transformers", None),
    "base": (_llama(rope_parameters={"rope_type": "default", "rope_theta": 500.0}), "genai", None),
}
"""Model, the exporter that `auto` ends with, and where scaling starts. Dynamic scaling begins past the context."""
OTHERS: dict[str, tuple[Tiny, str]] = {
    "head of 8": (_llama(head_dim=8), "transformers"),
    "biased": (_llama(attention_bias=True, mlp_bias=True), "genai"),
    "logits scaled": (Tiny("GraniteForCausalLM", "GraniteConfig", {**TINY["granite"].options, **_BLOCKS}), "genai"),
    "queries and keys normed": (Tiny("Qwen3ForCausalLM", "Qwen3Config", {**SIZES, **_BLOCKS}), "genai"),
    "amplifies rounding": (TINY["gemma"], "genai"),
    "tied": (_llama(tie_word_embeddings=True), "genai"),
}


@NIGHTLY
@pytest.mark.parametrize("name", SCALED)
def test_auto_ends_with_an_exporter_that_writes_the_scaling(name: str, tmp_path: Path) -> None:
    tiny, exporter, scaled_from = SCALED[name]
    made = export(save(tiny, tmp_path / "model"), tmp_path / "out").manifest
    proof = made.export_proof
    assert proof is not None
    assert (made.exporter, proof["passed"], proof["scaled_from"]) == (exporter, True, scaled_from)
    assert (made.exporter_reason is None) == (exporter == "genai")
    assert float(proof["value"] or 0) <= 1e-5
    assert scaled_from is None or int(proof["tokens"] or 0) > scaled_from


@NIGHTLY
@pytest.mark.parametrize("name", OTHERS)
def test_auto_ends_with_a_sound_export_of_other_forms(name: str, tmp_path: Path) -> None:
    tiny, exporter = OTHERS[name]
    made = export(save(tiny, tmp_path / "model"), tmp_path / "out").manifest
    assert made.export_proof is not None
    assert (made.exporter, made.export_proof["passed"]) == (exporter, True)
    assert (made.exporter_reason is None) == (exporter == "genai")


def test_a_head_size_that_the_operator_does_not_take_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(NotWritable, match=r"does not run in ONNX Runtime: .*head_size shall be a multiple of 16.*"
                                          r"; --exporter transformers") as raised:
        export(save(OTHERS["head of 8"][0], tmp_path / "model"), tmp_path / "out", exporter="genai")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()
