"""A model repository for Triton: `decoder` for the ONNX Runtime back end, and `generate`, text in and text out.

`decoder` has the graph with its cache as inputs and outputs. `generate` is Triton's Python back end over
onnxruntime-genai. Triton takes a model's name from its folder, so both may be renamed.
"""

from __future__ import annotations

import json
from pathlib import Path

from foldrank.bundle.bundle import Bundle, FileEntry
from foldrank.disk.twin import twin
from foldrank.errors import ExportError
from foldrank.graph.summary import summary_of
from foldrank.ports import Port
from foldrank.progress import SILENT, Progress
from foldrank.verbs.formats import copied, standalone_files

DECODER, GENERATE = "decoder", "generate"
_TYPES = {"tensor(int64)": "TYPE_INT64", "tensor(int32)": "TYPE_INT32", "tensor(float)": "TYPE_FP32",
          "tensor(float16)": "TYPE_FP16", "tensor(bfloat16)": "TYPE_BF16"}
_OPTIONS = (("max_tokens", "TYPE_INT32"), ("temperature", "TYPE_FP32"), ("top_p", "TYPE_FP32"), ("top_k", "TYPE_INT32"),
            ("seed", "TYPE_INT64"), ("stream", "TYPE_BOOL"))
_GRAPH = ("model.onnx", "model.onnx.data")


def write(bundle: Bundle, folder: Path, progress: Progress) -> dict[str, FileEntry]:
    """Fill an empty folder. Weights lie in it twice, linked where the file system can. Raises ExportError (no
    genai_config.json, a type that Triton has no name for), BundleError, UnsafeModel, ProviderUnavailable."""
    standalone_files.refuse_without_genai(bundle, "the model `generate`")
    ports = summary_of(bundle.model)
    decoder = _decoder(bundle, ports.inputs, ports.outputs)
    inner = f"{GENERATE}/1/bundle"
    known = copied.copy(bundle, copied.whole(bundle), folder, progress, lambda name: f"{inner}/{name}")
    for name in _GRAPH:
        if (first := folder / inner / name).exists():
            twin(first, folder / DECODER / "1" / name)
            known[f"{DECODER}/1/{name}"] = known[f"{inner}/{name}"]
    _text(folder / DECODER / "config.pbtxt", decoder)
    _text(folder / GENERATE / "config.pbtxt", _generate(standalone_files.front(bundle)))
    _text(folder / GENERATE / "1" / "model.py", standalone_files.program("triton_model.py"))
    _text(folder / GENERATE / "1" / standalone_files.GENERATION, standalone_files.program(standalone_files.GENERATION))
    known |= copied.copy(bundle, {name: entry for name, entry in copied.beside(bundle).items()
                                  if name not in copied.TOKENIZER}, folder, SILENT)
    _text(folder / "README.md", _README)
    return known


def _decoder(bundle: Bundle, inputs: dict[str, Port], outputs: dict[str, Port]) -> str:
    strange = {port.type for port in (*inputs.values(), *outputs.values())} - _TYPES.keys()
    if strange:
        raise ExportError(bundle.path, f"has inputs of {', '.join(sorted(strange))}, which Triton has no name for",
                          "export again")
    return "\n".join((
        'backend: "onnxruntime"', 'default_model_filename: "model.onnx"',
        "# Rows are an axis of the inputs' own: caches of one length go together, so Triton does not batch.",
        "max_batch_size: 0",
        *(_port("input", name, port) for name, port in inputs.items()),
        *(_port("output", name, port) for name, port in outputs.items()), ""))


def _port(side: str, name: str, port: Port) -> str:
    dims = ", ".join(str(size) if isinstance(size, int) else "-1" for size in port.shape)
    return f'{side} {{ name: "{name}" data_type: {_TYPES[port.type]} dims: [ {dims} ] }}'


def _generate(front: list[int]) -> str:
    options = (f'input {{ name: "{name}" data_type: {kind} dims: [ 1 ] optional: true }}' for name, kind in _OPTIONS)
    return "\n".join((
        'backend: "python"', "max_batch_size: 0", "model_transaction_policy { decoupled: true }",
        'input { name: "text_input" data_type: TYPE_STRING dims: [ 1 ] }', *options,
        'output { name: "text_output" data_type: TYPE_STRING dims: [ 1 ] }',
        "instance_group { count: 1 kind: KIND_CPU }  # KIND_GPU with onnxruntime-genai-cuda",
        f'parameters {{ key: "front_tokens" value {{ string_value: {json.dumps(json.dumps(front))} }} }}', ""))


def _text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


_README = """\
# Triton model repository

    tritonserver --model-repository=THIS_FOLDER
    curl localhost:8000/v2/models/generate/generate -d '{"text_input": "The pump", "max_tokens": 32}'
    curl localhost:8000/v2/models/generate/generate_stream -d '{"text_input": "The pump", "stream": true}'

`generate` needs `pip install numpy onnxruntime-genai` in the Python that Triton's Python back end runs. `decoder` is
the graph itself: its cache goes in as `past_key_values.N.key/.value`, empty (0 positions) at first, and comes out as
`present.N.key/.value`; it needs a Triton whose ONNX Runtime has the graph's operators.
"""
