"""llama.cpp as a peer: it reads a GGUF file as the model that was written, and is timed against a compressed bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from short_bench import SHORT
from tiny_gguf import TINY, write

from foldrank.benchmarks.llama_cpp import library, open_loop
from foldrank.benchmarks.speed_plans import in_few_bits, nothing
from foldrank.errors import ProviderUnavailable
from foldrank.model.checkpoint import Checkpoint
from foldrank.reports.bench import FORM
from foldrank.verbs import bench as verb
from foldrank.verbs.apply import apply
from foldrank.verbs.export import export

pytest.importorskip("gguf", reason="needs gguf: foldrank[gguf]")
PROMPTS = np.random.default_rng(0).integers(1, 258, (2, 9))


@pytest.fixture(autouse=True)
def there() -> None:
    try:
        library()
    except ProviderUnavailable as error:
        pytest.skip(f"needs xllamacpp: make consumers ({error})")


def test_rows_of_a_batch_go_on_as_in_pytorch_one_request_after_the_other(tmp_path: Path) -> None:
    import torch

    file = tmp_path / "tiny.gguf"
    model = write(TINY["qwen2"], file)
    ids = torch.from_numpy(PROMPTS)
    with torch.no_grad():
        for _ in range(8):
            ids = torch.cat((ids, model(ids).logits[:, -1:].argmax(-1)), dim=1)
    loop = open_loop(file, 1)
    assert loop.what.startswith(f"tiny.gguf (F32; {file.stat().st_size:,} bytes) in xllamacpp ")
    for rows in (2, 1, 2):
        loop.prepare(rows)
        found = [loop.first(PROMPTS[:rows]), *(loop.next() for _ in range(7))]
        np.testing.assert_array_equal(np.stack(found, axis=1), ids[:rows, PROMPTS.shape[1]:].numpy())


def test_the_file_that_a_bundle_was_read_from_is_timed_against_the_compressed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verb, "QUICK", SHORT)
    file = tmp_path / "tiny.Q8_0.gguf"
    write(TINY["llama"], file, bits="Q8_0")
    dense = export(file, tmp_path / "dense", exporter="genai")
    checkpoint = Checkpoint.open(file)
    small = apply(dense, in_few_bits(nothing(checkpoint), checkpoint), tmp_path / "small")
    found = FORM.parse(verb.bench(small, baseline=dense, quick=True, engines=["onnxruntime"], against=["llama.cpp"]))
    assert found.peers is not None
    assert found.peers.unavailable == {}
    assert [(one.phase, one.against) for one in found.peers.entries] == [
        ("prefill", "compressed"), ("decode", "compressed")]
    for one in found.peers.entries:
        assert one.ours_ms is not None
        assert one.theirs_ms is not None
        assert one.ratio == pytest.approx(one.theirs_ms / one.ours_ms, rel=0.5)  # medians apart against pairs
        assert (one.what or "").startswith("tiny.Q8_0.gguf (F32, Q8_0; ")
