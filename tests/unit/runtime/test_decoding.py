"""Decoding: both ways of keeping the cache, both engines, padded and batched, against each other and PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from foldrank.bundle.configs import head_size
from foldrank.errors import GraphNotRecognized, ProviderUnavailable, SourceError
from foldrank.runtime.decoding.decoder import CacheLayout, Logits, OrtDecoder, Tokens, shares_buffer
from foldrank.runtime.decoding.genai import GenaiDecoder
from foldrank.runtime.providers.provider import Provider, resolve
from foldrank.runtime.sessions.session import open_session

CPU = resolve("cpu")
IDS = np.random.default_rng(5).integers(1, 4000, (3, 24))
TOLERANCE = 1e-5
"""Of the largest logit: kernels for one row and for many sum in other orders."""


def _close(found: Logits, wanted: Logits, tolerance: float = TOLERANCE) -> bool:
    return bool(np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max())


@pytest.fixture(scope="module")
def growing(dense_5m: Path) -> OrtDecoder:
    return OrtDecoder.open(dense_5m, CPU, threads=1)


@pytest.fixture(scope="module")
def shared_buffer(dense_5m: Path) -> OrtDecoder:
    return OrtDecoder.open(dense_5m, CPU, threads=1, capacity=64)


@pytest.fixture(params=["growing", "shared_buffer"])
def decoder(request: pytest.FixtureRequest) -> OrtDecoder:
    return request.getfixturevalue(request.param)


def test_the_comparison_rejects_an_error_of_one_per_cent() -> None:
    wanted = np.random.default_rng(0).standard_normal((4, 9)).astype(np.float32)
    assert _close(wanted, wanted)
    assert not _close(wanted * np.float32(1.01), wanted)


def test_logits_are_those_of_pytorch(decoder: OrtDecoder, specs_5m: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(specs_5m, dtype=torch.float64)
    with torch.no_grad():
        wanted = model(torch.from_numpy(IDS)).logits.numpy()
    assert _close(decoder.prefill(IDS), wanted)


def test_prefill_equals_token_by_token_decoding(decoder: OrtDecoder) -> None:
    whole = decoder.prefill(IDS)
    parts = [decoder.prefill(IDS[:, :9]), *(decoder.step(IDS[:, i : i + 1]) for i in range(9, 24))]
    assert _close(np.concatenate(parts, axis=1), whole)


def test_several_tokens_may_follow_at_once(decoder: OrtDecoder) -> None:
    whole = decoder.prefill(IDS[:1])
    parts = [decoder.prefill(IDS[:1, :9]), decoder.step(IDS[:1, 9:])]
    assert _close(np.concatenate(parts, axis=1), whole)


def test_a_row_of_a_batch_is_what_it_is_alone(decoder: OrtDecoder) -> None:
    batch = decoder.prefill(IDS)
    for row in range(len(IDS)):
        assert _close(batch[row : row + 1], decoder.prefill(IDS[row : row + 1]))


def test_padding_on_the_right_changes_nothing_now_or_later(decoder: OrtDecoder) -> None:
    mask = np.ones_like(IDS)
    mask[1, 15:] = 0
    padded, after = decoder.prefill(IDS, mask), decoder.step(IDS[:, :1])
    alone, after_alone = decoder.prefill(IDS[1:2, :15]), decoder.step(IDS[1:2, :1])
    assert _close(padded[1:2, :15], alone)
    assert _close(after[1:2], after_alone)


def test_engines_and_caches_generate_the_same_tokens(
    dense_5m: Path, growing: OrtDecoder, shared_buffer: OrtDecoder
) -> None:
    library = GenaiDecoder.open(dense_5m, CPU, threads=1, capacity=64)
    wanted = growing.generate(IDS[:1], 32)
    assert wanted.shape == (1, 32)
    assert 0 not in wanted  # end of text, which onnxruntime-genai is told to avoid
    assert (shared_buffer.generate(IDS[:1], 32) == wanted).all()
    assert (library.generate(IDS[:1], 32) == wanted).all()
    assert (library.generate(IDS, 32)[0] == wanted[0]).all()


def test_a_graph_with_positions_and_a_growing_cache_decodes_padded_on_the_left(tiny_models: Path) -> None:
    """optimum's graph takes position_ids, so that its rows may be padded where batch generation pads them."""
    decoder = OrtDecoder.open(tiny_models / "llama" / "optimum", CPU, threads=1)
    ids: Tokens = IDS % 250
    mask = np.ones_like(ids)
    mask[1, :10] = 0
    padded, after = decoder.prefill(ids, mask), decoder.step(ids[:, :1])
    alone, after_alone = decoder.prefill(ids[1:2, 10:]), decoder.step(ids[1:2, :1])
    assert _close(padded[1:2, 10:], alone, 1e-4)
    assert _close(after[1:2], after_alone, 1e-4)


def test_cache_layout_is_read_from_graph_and_config(dense_5m: Path, growing: OrtDecoder) -> None:
    assert growing.cache == CacheLayout(pairs=12, heads=2, head_size=32, type="tensor(float)")
    assert growing.capacity is None
    assert shares_buffer(dense_5m)


def test_head_size_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="head size"):
        head_size(tmp_path)
    (tmp_path / "config.json").write_text('{"hidden_size": 192, "num_attention_heads": 6}')
    assert head_size(tmp_path) == 32


def test_a_graph_without_a_cache_is_refused(dense_5m: Path, growing: OrtDecoder) -> None:
    session = open_session(dense_5m / "model.onnx", CPU, threads=1)
    for name in [name for name in session.inputs if name.endswith("3.key")]:
        del session.inputs[name]
    with pytest.raises(GraphNotRecognized, match="no equal past_key_values"):
        CacheLayout.of(session, dense_5m)


@pytest.mark.parametrize("shape", [(0, 4), (1, 0), (4,)])
def test_empty_prompts_and_wrong_ranks_are_wrong_use(growing: OrtDecoder, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="input_ids"):
        growing.prefill(np.ones(shape, np.int64))


def test_a_step_of_other_rows_or_beyond_the_buffer_is_wrong_use(shared_buffer: OrtDecoder) -> None:
    shared_buffer.prefill(IDS)
    with pytest.raises(ValueError, match="does not follow"):
        shared_buffer.step(IDS[:2, :1])
    with pytest.raises(ValueError, match="do not fit a cache of 64"):
        shared_buffer.prefill(np.ones((1, 65), np.int64))


def test_genai_refuses_a_folder_it_cannot_load_and_a_provider_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="onnxruntime-genai cannot load it"):
        GenaiDecoder.open(tmp_path, CPU, capacity=8)
    with pytest.raises(ProviderUnavailable, match="is not offered"):
        GenaiDecoder.open(tmp_path, Provider("tensorrt"), capacity=8)
