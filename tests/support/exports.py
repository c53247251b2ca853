"""What every exporter makes of a checkpoint, as a graph: foldrank's own exporters, and what their users run without it.

A graph once made is kept in the folder, so that checks can be run again without its exporter.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir

from foldrank.export.builder import check_architecture
from foldrank.export.genai import check_windows, correct_scale
from foldrank.export.trace import trace
from foldrank.model.checkpoint import Checkpoint
from foldrank.verbs.export import export


def _bundled(exporter: str) -> Callable[[Path, Path, str], Path]:
    def make(checkpoint: Path, folder: Path, dtype: str) -> Path:
        return export(checkpoint, folder / "bundle", exporter=exporter, dtype=dtype, offline=True).model

    return make


def genai_split(checkpoint: Path, folder: Path, dtype: str) -> Path:
    """The model builder without its packing of q, k and v; its faults set right as foldrank's exporter does."""
    known = Checkpoint.open(checkpoint)
    check_architecture(known.architecture)
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(checkpoint), "-o",
               str(folder / "split"), "-p", dtype, "-e", "cpu", "-c", str(folder / "cache"),
               "--extra_options", "disable_qkv_fusion=true", "windowed_kv_cache=false"]
    subprocess.run(command, check=True, capture_output=True)
    check_windows(folder / "split" / "model.onnx", known)
    correct_scale(folder / "split" / "model.onnx", known)
    return folder / "split" / "model.onnx"


def fused(checkpoint: Path, folder: Path, dtype: str) -> Path:
    """transformers.exporters with `ort_fusions="cpu"`."""
    from transformers.exporters.onnxruntime_fusions import fuse_for_onnxruntime

    plain = folder / "plain.onnx"
    if not plain.is_file():
        trace(checkpoint, plain, dtype, trust=False)
    model = ir.load(plain)
    fuse_for_onnxruntime(model, "cpu")
    ir.save(model, folder / "fused.onnx", external_data="fused.onnx.data")
    return folder / "fused.onnx"


def plainly(checkpoint: Path, folder: Path, dtype: str) -> Path:
    """torch.onnx.export(dynamo=True) of a wrapper that any reader of its manual would write, the common names given."""
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache

    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype={"fp32": torch.float32, "fp16": torch.float16}[dtype], attn_implementation="eager").eval()
    with torch.no_grad():
        cache = model(torch.ones(2, 5, dtype=torch.int64), use_cache=True).past_key_values
    blocks = len(cache.layers)

    class Wrapper(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask, position_ids, *past):  # type: ignore[no-untyped-def]
            cache = DynamicCache()
            for i in range(blocks):
                cache.update(past[2 * i], past[2 * i + 1], i)
            out = self.model(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids,
                             past_key_values=cache, use_cache=True)
            return (out.logits, *(t for layer in out.past_key_values.layers for t in (layer.keys, layer.values)))

    past = tuple(torch.randn_like(t) for layer in cache.layers for t in (layer.keys, layer.values))
    ids = torch.arange(3, 9).reshape(2, 3)
    args = (ids, torch.ones(2, 8, dtype=torch.int64), torch.arange(5, 8)[None].repeat(2, 1), *past)
    ports = [f"{{}}.{i}.{kind}" for i in range(blocks) for kind in ("key", "value")]
    step = {0: "batch", 1: "sequence"}
    program = torch.onnx.export(
        Wrapper(), args, dynamo=True, verbose=False, output_names=["logits", *(p.format("present") for p in ports)],
        input_names=["input_ids", "attention_mask", "position_ids", *(p.format("past_key_values") for p in ports)],
        dynamic_shapes=(step, {0: "batch", 1: "total"}, step, tuple({0: "batch", 2: "past"} for _ in past)),
    )
    program.save(folder / "torch.onnx", external_data=True)
    return folder / "torch.onnx"


EXPORTERS: dict[str, Callable[[Path, Path, str], Path]] = {
    "genai": _bundled("genai"), "genai-split": genai_split, "transformers": _bundled("transformers"),
    "transformers-fused": fused, "optimum": _bundled("optimum"), "torch": plainly,
}
"""By name: (checkpoint, an empty folder, dtype) to the path of the graph."""


def exported(exporter: str, checkpoint: Path, folder: Path, dtype: str = "fp32") -> Path:
    """The graph that an exporter makes, from `folder` where it was made before. Raises what the exporter raises."""
    note = folder / "graph.txt"
    if note.is_file():
        return folder / note.read_text()
    folder.mkdir(parents=True, exist_ok=True)
    path = EXPORTERS[exporter](checkpoint, folder, dtype)
    note.write_text(str(path.relative_to(folder)))
    return path
