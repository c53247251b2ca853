"""GGUF files as checkpoints: each architecture comes out as the model that it was written of."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tiny_gguf import TINY, write

from foldrank.cli.main import cli
from foldrank.errors import SourceError
from foldrank.model import gguf as reading
from foldrank.model.checkpoint import Checkpoint
from foldrank.model.gguf_child import convert
from foldrank.model.gguf_header import read_header
from foldrank.model.gguf_rope import scaled
from foldrank.model.gguf_rules import ARCHITECTURES, reasons

pytest.importorskip("gguf", reason="needs gguf: foldrank[gguf]")
pytest.importorskip("accelerate", reason="needs accelerate: foldrank[gguf]")
IDS = np.random.default_rng(0).integers(1, 258, (2, 24))
"""Longer than the sliding windows."""


@pytest.mark.parametrize("name", TINY)
def test_what_is_read_is_the_model_that_was_written(name: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = write(TINY[name], tmp_path / "model.gguf")
    assert [*reasons(read_header(tmp_path / "model.gguf"))] == []
    convert(tmp_path / "model.gguf", tmp_path / "out")
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    with torch.no_grad():
        wanted, found = (m(torch.from_numpy(IDS)).logits for m in (model, read))
    assert float((found - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())
    opened = Checkpoint.open(tmp_path / "out")
    assert opened.architecture == TINY[name].architecture
    assert "quantization_config" not in opened.config


def test_positions_scaled_in_another_way_are_refused(tmp_path: Path) -> None:
    tiny = TINY["llama3"]
    write(tiny, tmp_path / "model.gguf")
    header = read_header(tmp_path / "model.gguf")
    assert scaled(tmp_path / "model.gguf", header) == tiny.options["rope_parameters"]
    start = header.tensors["rope_freqs.weight"].start + 6 * 4
    data = bytearray((tmp_path / "model.gguf").read_bytes())
    assert 1 < np.frombuffer(data, "<f4", 1, start)[0] < 8
    data[start : start + 4] = np.float32(1.5).tobytes()
    (tmp_path / "model.gguf").write_bytes(data)
    with pytest.raises(ValueError, match="in a way that is not Llama 3's"):
        scaled(tmp_path / "model.gguf", header)


def test_every_architecture_that_is_taken_is_tried() -> None:
    assert {tiny.gguf for tiny in TINY.values()} == set(ARCHITECTURES)


def test_a_file_of_few_bits_becomes_a_checkpoint_of_its_name_and_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the process of its own, into the cache, once; numbers are those of the file, as fp16."""
    from gguf import GGUFReader, dequantize
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FOLDRANK_NO_CACHE", raising=False)
    (tmp_path / "given").mkdir()
    file = tmp_path / "given" / "tiny.Q8_0.gguf"
    write(TINY["llama"], file, bits="Q8_0")
    (file.parent / "config.json").write_text('{"auto_map": {"AutoConfig": "evil.Config"}}')
    made = Checkpoint.open(file.parent)
    assert (made.name, made.source()["gguf"]) == ("tiny.Q8_0.gguf", "tiny.Q8_0.gguf")
    assert len(made.source()["gguf_sha256"]) == 64
    shown = CliRunner().invoke(cli, ["inspect", str(file)], catch_exceptions=False).output
    size = f"{file.stat().st_size / 2**10:,.1f} KiB"
    assert f"as floats; tiny.Q8_0.gguf holds it in {size} (F32, Q8_0)" in " ".join(shown.split())
    monkeypatch.setattr(reading, "_convert", None)
    assert Checkpoint.open(file).source() == made.source()
    tensor = next(t for t in GGUFReader(file).tensors if t.name == "blk.1.ffn_down.weight")
    wanted = dequantize(tensor.data, tensor.tensor_type).astype(np.float16)
    np.testing.assert_array_equal(load_file(made.weight_files[0])["model.layers.1.mlp.down_proj.weight"], wanted)
    tokenizer = Tokenizer.from_file(str(made.path / "tokenizer.json"))
    assert tokenizer.encode("the 12").tokens == ["th", "e", "Ġ", "1", "2"]
    assert json.loads((made.path / "config.json").read_text())["dtype"] == "float16"


@pytest.mark.parametrize(("changed", "says"), [
    ({"rope__scaling__type": "yarn"}, "its rope.scaling.type is 'yarn', which transformers does not read"),
    ({"rope__scaling__factor": 4.0}, "it has rope.scaling.factor, which transformers does not read"),
    ({"expert_count": 8}, "its expert_count is 8"),
    ({"attention__layer_norm_rms_epsilon": None}, "it does not say its attention.layer_norm_rms_epsilon"),
    ({"rope__freq_base": 500.0, "attention__sliding_window": 9}, "it has attention.sliding_window"),
    ({"block_count": 3}, "it lacks blk.2.attn_k.weight"),
    ({"block_count": 1}, "it has blk.1.attn_k.weight"),
    ({"block_count": 1 << 30}, "its block_count is 1073741824"),
    ({"feed_forward_length": 1 << 20}, "blk.0.ffn_down.weight is (96, 64), the metadata say (1048576, 64)"),
    ({"attention__key_length": 64}, "its heads are of 64"),
    ({"vocab_size": 7}, "it has 258 tokens and speaks of 7"),
])
def test_what_would_become_another_model_is_refused(
    changed: dict[str, float | int | str | None], says: str, tmp_path: Path
) -> None:
    write(TINY["llama"], tmp_path / "model.gguf", **changed)
    with pytest.raises(SourceError) as raised:
        Checkpoint.open(tmp_path / "model.gguf")
    assert says in raised.value.what


def test_a_tokenizer_that_splits_in_an_unknown_way_is_refused(tmp_path: Path) -> None:
    write(TINY["llama"], tmp_path / "model.gguf")
    data = (tmp_path / "model.gguf").read_bytes().replace(b"smollm", b"smolln")
    (tmp_path / "model.gguf").write_bytes(data)
    with pytest.raises(ValueError, match=r"its tokenizer \(smolln\) splits text is not known"):
        convert(tmp_path / "model.gguf", tmp_path / "out")
