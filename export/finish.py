"""What the model builder leaves undone: the bundle's other files, and a graph that every consumer can load.

The weights are never read: model.onnx is changed on its own, the data file beside it stays as it is.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import onnx

from foldrank import strictjson
from foldrank.errors import ExportError
from foldrank.export.anonymous import make_anonymous, name_axes
from foldrank.export.left_padding import take_left_padding
from foldrank.model.checkpoint import Checkpoint
from foldrank.model.licence import licence_files
from foldrank.model.readable import readable
from foldrank.model.token_ids import TOKEN_IDS, token_ids

_CACHE = ("past_key_values.", "present.")
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json",
              "special_tokens_map.json", "chat_template.jinja")


def finish_graph(folder: Path, data_sha256: str, *, left_padding: bool = False) -> None:
    """Name the graph after its content, its axes as consumers know them, and write the real head size into the
    cache's shapes; nothing tells the machine it was made on. `left_padding`: teach GroupQueryAttention's graph to take
    rows padded on the left. Raises ExportError.

    TensorRT keys its engine cache on the name; lm-eval and optimum read the cache's shapes.
    """
    path = folder / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    if loose := _loose_outputs(model.graph):
        raise ExportError(path.name, f"the builder wrote a graph in which nothing computes {', '.join(loose[:3])}",
                          "for cuda take --dtype fp16 or bf16, for the CPU fp32 or fp16")
    head_size = strictjson.read(folder / "genai_config.json")["model"]["decoder"]["head_size"]
    for port in (*model.graph.input, *model.graph.output):
        if port.name.startswith(_CACHE):
            _set_head_size(port, head_size)
    name_axes(model.graph)
    if left_padding:
        take_left_padding(model.graph, next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")))
    make_anonymous(model)
    model.graph.ClearField("name")
    digest = hashlib.sha256(model.SerializeToString(deterministic=True) + data_sha256.encode()).hexdigest()
    model.graph.name = f"foldrank_{digest[:16]}"
    path.unlink()
    onnx.save(model, path)


def _loose_outputs(graph: Any) -> list[str]:
    made = {name for node in graph.node for name in node.output}
    made.update(port.name for port in graph.input)
    made.update(tensor.name for tensor in graph.initializer)
    return [port.name for port in graph.output if port.name not in made]


def _set_head_size(port: Any, head_size: int) -> None:
    """The builder leaves the last axis symbolic, so that one graph may serve a quantised cache too."""
    last = port.type.tensor_type.shape.dim[-1]
    if last.dim_param == "kv_cache_dim":
        last.dim_value = head_size


def finish_files(folder: Path, checkpoint: Checkpoint, provider: str) -> None:
    """Settings of onnxruntime-genai, config, generation config and the checkpoint's own tokenizer and licence files."""
    ids = token_ids(checkpoint.path, checkpoint.config)
    context = _finish_genai_config(folder / "genai_config.json", provider, ids)
    with readable(checkpoint) as source:
        _copy_config(source / "config.json", folder)
    _copy_generation_config(folder, checkpoint, ids)
    for name in _TOKENIZER:
        if (checkpoint.path / name).is_file():
            shutil.copyfile(checkpoint.path / name, folder / name)
    for path in licence_files(checkpoint.path):
        shutil.copyfile(path, folder / path.name)
    if (checkpoint.path / "tokenizer_config.json").is_file():
        _copy_tokenizer_config(checkpoint.path / "tokenizer_config.json", folder, context)


def _finish_genai_config(path: Path, provider: str, ids: dict[str, Any]) -> int:
    """Write the special tokens' ids that files tell, the provider the bundle is for, and every physical core on a CPU
    (0: ONNX Runtime's own choice), of which onnxruntime-genai 0.18 left to itself takes half where a core is one
    thread. Gives the context length."""
    config = strictjson.read(path)
    config["model"] = {k: v for k, v in config["model"].items() if k not in TOKEN_IDS} | ids
    options = config["model"]["decoder"]["session_options"]
    if provider == "cpu":
        options["provider_options"] = []
        options["intra_op_num_threads"] = 0
    elif not any(provider in entry for entry in options["provider_options"]):
        options["provider_options"] = [{provider: {}}]
    path.write_text(strictjson.dumps(config), encoding="utf-8")
    return int(config["model"]["context_length"])


def _copy_config(source: Path, folder: Path) -> None:
    """As it stands where it is strict JSON, but without `auto_map`: the code that it names is not in the bundle, and
    none shall run there. A byte order mark goes, and Infinity is said in JSON's own terms."""
    config = strictjson.read_foreign(source)
    plain = {key: value for key, value in config.items() if key != "auto_map"}
    if plain == config and _strict(source):
        shutil.copyfile(source, folder / source.name)
    else:
        (folder / source.name).write_text(strictjson.dumps(strictjson.tagged(plain)), encoding="utf-8")


def _strict(path: Path) -> bool:
    try:
        strictjson.read(path)
    except strictjson.JsonError:
        return False
    return True


def _copy_generation_config(folder: Path, checkpoint: Checkpoint, ids: dict[str, Any]) -> None:
    source = checkpoint.path / "generation_config.json"
    if source.is_file():
        _copy_config(source, folder)
        return
    (folder / source.name).write_text(strictjson.dumps(ids), encoding="utf-8")


def _copy_tokenizer_config(source: Path, folder: Path, context: int) -> None:
    """As it stands, but for `no limit`, which is written 10^30 and breaks readers of 64-bit integers.

    The builder's own version may name a class that only its version of transformers has.
    """
    config = strictjson.read_foreign(source)
    config.pop("auto_map", None)
    if config.get("model_max_length", 0) > 2**53:
        config["model_max_length"] = context
    (folder / source.name).write_text(strictjson.dumps(strictjson.tagged(config)), encoding="utf-8")
