"""Write a random Llama checkpoint: `python -m foldrank.benchmarks.random_checkpoint --parameters 80M -o DIR`.

For speed only: its weights are noise, so no quality figure may come from it; config.json and README.md say so.
Weights go out block by block, one safetensors file each: memory stays at one block (or the embedding).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from foldrank.disk.staging import staged_folder
from foldrank.progress import SILENT, Progress, track

_UNITS = {"K": 10**3, "M": 10**6, "B": 10**9}
_HEAD = 64
_README = """# Random weights

{parameters:,} parameters drawn from a normal distribution with seed {seed}. Made by foldrank to measure speed and
memory. It knows no language: no quality figure may come from it.
"""


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama whose parameters are mostly in its blocks."""

    blocks: int
    hidden: int
    vocabulary: int
    tied: bool

    @property
    def heads(self) -> int:
        """Query heads of size 64."""
        return self.hidden // _HEAD

    @property
    def kv_heads(self) -> int:
        """Largest divisor of the heads that is at most a quarter of them, at least one."""
        return max(d for d in range(1, max(1, self.heads // 4) + 1) if self.heads % d == 0)

    @property
    def intermediate(self) -> int:
        """8/3 of hidden, to the next multiple of 64."""
        return -(-8 * self.hidden // 3 // 64) * 64

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """[out, in] of each projection of a block, under its name in the checkpoint."""
        hidden, kv, inner = self.hidden, self.kv_heads * _HEAD, self.intermediate
        return {
            "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (kv, hidden), "self_attn.v_proj": (kv, hidden),
            "self_attn.o_proj": (hidden, hidden), "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }

    @property
    def parameters(self) -> int:
        """All of them; a tied embedding counts once."""
        block = sum(out * n_in for out, n_in in self.linears.values()) + 2 * self.hidden
        return self.blocks * block + self.hidden + (1 if self.tied else 2) * self.vocabulary * self.hidden


def shape_of(parameters: int) -> Shape:
    """The shape closest to so many parameters (1M to 10B). Raises ValueError outside."""
    if not 10**6 <= parameters <= 10**10:
        raise ValueError(f"{parameters} parameters: 1M to 10B are made")
    blocks = 12 if parameters < 10**9 else 24 if parameters < 4 * 10**9 else 32
    vocabulary, tied = (4096, True) if parameters < 4 * 10**7 else (8192, True) if blocks == 12 else (32768, False)
    widths = [*range(_HEAD, 1024, _HEAD), *range(1024, 8192 + 1, 4 * _HEAD)]
    shapes = (Shape(blocks, hidden, vocabulary, tied) for hidden in widths)
    return min(shapes, key=lambda shape: abs(shape.parameters - parameters))


def parse_size(text: str) -> int:
    """`80M` to 80_000_000. Raises ValueError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMB]?)", text.strip().upper())
    if match is None:
        raise ValueError(f"{text!r} is no size; write 80M or 1.5B")
    return round(float(match[1]) * _UNITS.get(match[2], 1))


def write_checkpoint(
    shape: Shape, output: Path, *, seed: int = 0, dtype: str = "float32", force: bool = False,
    progress: Progress = SILENT,
) -> Path:
    """Write the checkpoint folder. `dtype`: float32 or float16. Raises SourceError where the output exists."""
    with staged_folder(output, force=force) as folder:
        index = {}
        parts = 1 + shape.blocks
        for part, tensors in enumerate(track(_parts(shape, seed, dtype), "random weights", parts, progress), 1):
            name = f"model-{part:05d}-of-{parts:05d}.safetensors"
            save_file(tensors, folder / name, metadata={"format": "pt"})
            index.update(dict.fromkeys(tensors, name))
        total = shape.parameters * np.dtype(dtype).itemsize
        _json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": index})
        _json(folder / "config.json", _config(shape, dtype))
        _json(folder / "generation_config.json", {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0})
        write_tokenizer(folder)
        (folder / "README.md").write_text(_README.format(parameters=shape.parameters, seed=seed), encoding="utf-8")
    return output


def _parts(shape: Shape, seed: int, dtype: str) -> Iterator[dict[str, np.ndarray]]:
    """The embedding, head and final norm, then each block, whose generator depends on its number alone."""
    rng = np.random.default_rng([seed, shape.blocks])
    embedding = (shape.vocabulary, shape.hidden)
    outer = {"model.embed_tokens.weight": _normal(rng, embedding, dtype),
             "model.norm.weight": np.ones(shape.hidden, dtype)}
    if not shape.tied:
        outer["lm_head.weight"] = _normal(rng, embedding, dtype)
    yield outer
    for block in range(shape.blocks):
        rng, prefix = np.random.default_rng([seed, block]), f"model.layers.{block}."
        tensors = {f"{prefix}{name}.weight": _normal(rng, size, dtype) for name, size in shape.linears.items()}
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}{norm}.weight"] = np.ones(shape.hidden, dtype)
        yield tensors


def _normal(rng: np.random.Generator, size: tuple[int, int], dtype: str) -> np.ndarray:
    return (0.02 * rng.standard_normal(size, dtype=np.float32)).astype(dtype, copy=False)


def _config(shape: Shape, dtype: str) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "random_weights": True, "dtype": dtype,
        "torch_dtype": dtype, "hidden_size": shape.hidden, "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.blocks, "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads,
        "head_dim": _HEAD, "vocab_size": shape.vocabulary, "tie_word_embeddings": shape.tied,
        "max_position_embeddings": 2048, "rope_theta": 10000.0, "rms_norm_eps": 1e-5, "hidden_act": "silu",
        "attention_bias": False, "mlp_bias": False, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
    }


def write_tokenizer(folder: Path) -> None:
    """Write a byte-level tokenizer: end of text, then the 256 bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<|end|>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    ends = dict.fromkeys(("bos_token", "eos_token", "pad_token"), "<|end|>")
    _json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **ends})


def _json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


@click.command()
@click.option("--parameters", required=True, help="Size, such as 80M.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
@click.option("--seed", default=0)
@click.option("--dtype", type=click.Choice(["float32", "float16"]), default="float32")
@click.option("--force", is_flag=True)
def main(parameters: str, output: Path, seed: int, dtype: str, force: bool) -> None:
    """Write a random Llama checkpoint for measuring speed."""
    shape = shape_of(parse_size(parameters))
    write_checkpoint(shape, output, seed=seed, dtype=dtype, force=force)
    click.echo(f"{output}: {shape.parameters:,} random parameters, {shape.blocks} blocks of {shape.hidden}")


if __name__ == "__main__":
    main()
