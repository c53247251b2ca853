"""Export through onnxruntime-genai's model builder: one graph for prefill and decode, GroupQueryAttention inside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from foldrank.bundle.bundle import FileEntry
from foldrank.digests import sha256_file
from foldrank.errors import NotWritable
from foldrank.export.builder import build, check_architecture
from foldrank.export.finish import finish_files, finish_graph
from foldrank.export.needed import check_transformers
from foldrank.model.checkpoint import Checkpoint
from foldrank.model.facts import context_length
from foldrank.model.readable import readable
from foldrank.progress import SILENT, Progress

_DATA = "model.onnx.data"


def export(
    checkpoint: Checkpoint, folder: Path, *, dtype: str, provider: str, trust_remote_code: bool = False,
    progress: Progress = SILENT,
) -> dict[str, FileEntry]:
    """Fill an empty folder with everything but card and manifest. Gives the entries of files that were digested.

    `provider`: cpu or cuda, whose kernels the bundle is for. Raises ExportError.
    """
    if provider not in ("cpu", "cuda"):
        raise NotWritable(f"provider {provider}", "the genai exporter writes graphs for cpu and cuda only",
                          "--exporter transformers")
    check_architecture(checkpoint.architecture)
    check_transformers("genai")
    with readable(checkpoint) as source:
        build(
            source, folder, precision=dtype, execution_provider=_builder_provider(dtype, provider),
            blocks=checkpoint.blocks, remote_code=trust_remote_code, progress=progress,
        )
    check_windows(folder / "model.onnx", checkpoint)
    correct_scale(folder / "model.onnx", checkpoint)
    data = folder / _DATA
    entry = FileEntry(sha256_file(data), data.stat().st_size)
    finish_graph(folder, entry.sha256, left_padding=provider == "cpu")  # on a GPU its cost was not measured
    finish_files(folder, checkpoint, "cuda" if dtype == "bf16" else provider)
    return {_DATA: entry}


def check_windows(graph: Path, checkpoint: Checkpoint) -> None:
    """Raise NotWritable where the graph lets blocks see more than their sliding window.

    The builder (0.18) gives windows to the blocks that config.json lists in `layer_types`; where a family has one
    window for all blocks and lists none (Mistral), it leaves it out.
    """
    text = checkpoint.text_config
    window, context = text.get("sliding_window"), context_length(text)
    kinds = text.get("layer_types")
    sliding = kinds.count("sliding_attention") if isinstance(kinds, list) else checkpoint.blocks
    if not isinstance(window, int) or text.get("use_sliding_window") is False or (context and window >= context):
        return
    nodes = onnx.load(graph, load_external_data=False).graph.node
    sizes = (a.i for node in nodes for a in node.attribute if a.name == "local_window_size")
    if (found := sum(size > 0 for size in sizes)) != sliding:
        what = f"{sliding} blocks attend to {window} tokens, the builder wrote {found} such"
        raise NotWritable(checkpoint.path, what, "--exporter transformers")


def correct_scale(graph: Path, checkpoint: Checkpoint) -> None:
    """Gemma multiplies embeddings by the root of their width, which the builder (0.18) rounds to two decimals."""
    width = checkpoint.text_config.get("hidden_size")
    model = onnx.load(graph, load_external_data=False)
    scale = next((n.input[1] for n in model.graph.node if n.name == "/model/embed_tokens/Mul"), None)
    if scale is None or not isinstance(width, int):
        return
    for tensor in _constants(model.graph, scale):
        value = onnx.numpy_helper.to_array(tensor)
        if value.size == 1 and float(value) == float(value.dtype.type(round(width**0.5, 2))):
            exact = np.full(value.shape, width**0.5, value.dtype)
            tensor.CopyFrom(onnx.numpy_helper.from_array(exact, tensor.name))
    graph.unlink()
    onnx.save(model, graph)


def _constants(graph: onnx.GraphProto, name: str) -> list[onnx.TensorProto]:
    """The tensors that a value is: an initializer, or what a Constant holds."""
    made = [a.t for node in graph.node if node.op_type == "Constant" and name in node.output for a in node.attribute]
    return made + [tensor for tensor in graph.initializer if tensor.name == name]


def _builder_provider(dtype: str, provider: str) -> str:
    """For which kernels the builder writes.

    Half precision asked for the CPU gives hundreds of reshapes around MultiHeadAttention; the graph for CUDA has
    GroupQueryAttention, which the CPU runs in fp16 too. bf16 has no CPU kernels either way (ONNX Runtime 1.32).
    """
    return provider if dtype == "fp32" else "cuda"
