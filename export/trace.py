"""Program of a child process: trace a checkpoint with transformers.exporters and save its `decode` graph.

    python -m foldrank.export.trace CHECKPOINT OUTPUT.onnx fp32|fp16|bf16 [trust]

Of the two graphs that `export_for_generation` would make, only `decode` is traced: with several tokens at once it reads
a prompt over an empty cache too, and the weights are written once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache
from transformers.exporters import OnnxConfig, OnnxExporter
from transformers.exporters.exporter_dynamo import get_auto_dynamic_shapes
from transformers.exporters.utils import decompose_for_generation, prepare_for_export

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_ROWS, _TOKENS, _PADDED = 2, 7, 3
"""The sample: every axis longer than 1, which would become a constant; padded, or the mask would vanish."""


def trace(checkpoint: Path, output: Path, dtype: str, *, trust: bool) -> None:
    """Write `output` and its data file beside it. Raises whatever transformers or torch raise."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=_DTYPES[dtype], trust_remote_code=trust, local_files_only=True,
        attn_implementation=_attention(checkpoint, trust=trust),
    ).eval()
    ids_BT = torch.randint(0, model.config.get_text_config().vocab_size, (_ROWS, _TOKENS))
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[0, :_PADDED] = 0
    # A cache made without a config never forgets: those of sliding windows would bring inputs of their own.
    sample = {"input_ids": ids_BT, "attention_mask": mask_BT, "past_key_values": DynamicCache()}
    stages = decompose_for_generation(model, sample, multi_token_decode=True)
    decoder, inputs = stages["decode"]
    _, prepared, _ = prepare_for_export(decoder, dict(inputs))
    config = OnnxConfig(dynamic=True, dynamic_shapes=_varying(get_auto_dynamic_shapes(prepared)))
    exported = OnnxExporter().export(decoder, inputs, config)
    program = exported.program if hasattr(exported, "program") else exported.model  # torch's ONNXProgram in 5.17
    ir.save(program, output, external_data=f"{output.name}.data")


def _varying(axes: Any) -> Any:
    """Of the axes of each input those that vary: rows and positions, not the heads of a cache nor their size."""
    if isinstance(axes, dict) and set(axes) == {0, 1, 2, 3}:
        return {0: axes[0], 2: axes[2]}
    if isinstance(axes, dict):
        return {key: _varying(value) for key, value in axes.items()}
    return [_varying(value) for value in axes] if isinstance(axes, list) else axes


def _attention(checkpoint: Path, *, trust: bool) -> str | None:
    """Scores are soft-capped in transformers' eager attention alone: traced through SDPA, the cap would be missing."""
    config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=trust, local_files_only=True)
    return "eager" if getattr(config.get_text_config(), "attn_logit_softcapping", None) else None


if __name__ == "__main__":
    source, target, dtype, *trusted = sys.argv[1:]
    trace(Path(source), Path(target), dtype, trust=trusted == ["trust"])
