"""The configs of a bundle that libraries read: a closed list of what they may say, since more of it runs code.

onnxruntime-genai loads shared objects and writes files that genai_config.json names; transformers imports code that
`auto_map` names. The lists are what our exporters and the model builder of onnxruntime-genai 0.18 write for decoders.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from foldrank import strictjson
from foldrank.errors import BundleError, SourceError

NAME = "genai_config.json"
_CLOSED = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
_Count = Annotated[int, Field(ge=0, le=2**40)]
_Text = Annotated[str, Field(max_length=128, pattern=r"^[\w.%\-]*$")]
_Token = int | list[int]
_Switch = Annotated[str, Field(max_length=32, pattern=r"^[A-Za-z0-9_.\-]*$")]
_ProviderKey = Literal[
    "arena_extend_strategy", "cudnn_conv_algo_search", "device_id", "do_copy_in_default_stream", "enable_cuda_graph",
    "enable_skip_layer_norm_strict_mode", "gpu_mem_limit", "prefer_nhwc", "sdpa_kernel", "tunable_op_enable",
    "tunable_op_tuning_enable", "use_tf32",
]


@dataclass(frozen=True, config=_CLOSED)
class _Sliding:
    window_size: int | None = None
    slide_key_value_cache: bool | None = None
    slide_inputs: bool | None = None
    layers: list[int] | None = None
    cache_slack: int | None = None
    alignment: str | None = None
    pad_value: int | None = None


_SESSION_KEYS: dict[str, Any] = {
    "log_id": _Text, "log_severity_level": _Count, "intra_op_num_threads": _Count, "inter_op_num_threads": _Count,
    "enable_cpu_mem_arena": bool, "enable_mem_pattern": bool, "use_env_allocators": bool,
    "provider_options": list[dict[Literal["cpu", "cuda", "CUDA", "tensorrt"], dict[_ProviderKey, _Switch]]],
    "graph_optimization_level": _Text,
    "ep.cuda.fpa_intb_gemm": _Switch, "optimization.disable_specified_optimizers": _Switch,
    "session.use_device_allocator_for_initializers": _Switch, "session.intra_op.allow_spinning": _Switch,
    "session.inter_op.allow_spinning": _Switch, "session.force_spinning_stop": _Switch,
}
_SESSION_TYPES: dict[str, TypeAdapter[Any]] = {
    key: TypeAdapter(kind) for key, kind in _SESSION_KEYS.items()
}


@dataclass(frozen=True, config=_CLOSED)
class _Decoder:
    filename: Literal["model.onnx"] | None = None
    head_size: _Count | None = None
    hidden_size: _Count | None = None
    inputs: dict[_Text, _Text] | None = None
    outputs: dict[_Text, _Text] | None = None
    num_attention_heads: _Count | None = None
    num_hidden_layers: _Count | None = None
    num_key_value_heads: _Count | None = None
    sliding_window: _Sliding | None = None
    session_options: dict[str, Any] | None = None


@dataclass(frozen=True, config=_CLOSED)
class _Model:
    type: _Text | None = None
    bos_token_id: _Token | None = None
    eos_token_id: _Token | None = None
    pad_token_id: _Token | None = None
    bot_token_id: _Token | None = None
    eot_token_id: _Token | None = None
    bor_token_id: _Token | None = None
    eor_token_id: _Token | None = None
    context_length: _Count | None = None
    vocab_size: _Count | None = None
    decoder: _Decoder | None = None


@dataclass(frozen=True, config=_CLOSED)
class _Search:
    chunk_size: _Count | None = None
    diversity_penalty: float | None = None
    do_sample: bool | None = None
    early_stopping: bool | None = None
    length_penalty: float | None = None
    max_length: _Count | None = None
    min_length: _Count | None = None
    no_repeat_ngram_size: _Count | None = None
    num_beams: _Count | None = None
    num_return_sequences: _Count | None = None
    past_present_share_buffer: bool | None = None
    random_seed: int | None = None
    repetition_penalty: float | None = None
    temperature: float | None = None
    top_k: _Count | None = None
    top_p: float | None = None


@dataclass(frozen=True, config=_CLOSED)
class _Settings:
    model: _Model
    search: _Search | None = None


_SETTINGS: TypeAdapter[_Settings] = TypeAdapter(_Settings)


def settings(path: Path) -> dict[str, Any]:
    """genai_config.json with nothing in it but what the list allows. Raises BundleError, which names the key."""
    try:
        raw = strictjson.read(path)
        _SETTINGS.validate_json(strictjson.dumps(raw), strict=True)
        options = (raw["model"].get("decoder") or {}).get("session_options") or {}
        for key, value in options.items():
            if key not in _SESSION_TYPES:
                raise _refused(path, f"model.decoder.session_options.{key}")
            try:
                _SESSION_TYPES[key].validate_python(value, strict=True)
            except ValidationError as error:
                where = f"model.decoder.session_options.{key}"
                raise BundleError(path, f"{where}: {strictjson.reasons(error)}", "export again") from None
    except ValidationError as error:
        raise BundleError(path, strictjson.reasons(error), "foldrank runs only settings that it knows; export again"
                          ) from None
    except OSError as error:
        raise SourceError(path, f"onnxruntime-genai cannot load it: {error.strerror}", "export again") from None
    except strictjson.JsonError as error:
        raise BundleError(path, str(error), "export again") from None
    return dict(raw)


def check_configs(files: Mapping[str, Path]) -> None:
    """Refuse a bundle's configs that would run code, by name of the file. Raises BundleError, which names the key."""
    if NAME in files:
        settings(files[NAME])
    for name, path in files.items():
        if name in _ADAPTER:
            raise BundleError(path, "an adapter beside the model, which transformers loads", "merge it, then export")
        read = "/" not in name and name.endswith(".json") and name not in (NAME, "tokenizer.json", "vocab.json")
        if read and (key := _code(_lenient(path))):
            raise _refused(path, key)


_CODE = frozenset({"auto_map", "custom_generate", "custom_pipelines", "trust_remote_code"})
_KERNELS = ("attn_implementation", "experts_implementation")
"""Where `OWNER/NAME` is a repository of kernels, which transformers loads and runs."""
_ADAPTER = frozenset({"adapter_config.json"})


def _lenient(path: Path) -> Any:
    """JSON as transformers reads it, NaN and repeated keys too; None where it could not: who needs the file says so."""
    if path.stat().st_size > strictjson.MAX_BYTES:
        raise BundleError(path, f"larger than {strictjson.MAX_BYTES >> 20} MiB", "export again")
    try:
        return json.loads(path.read_bytes())
    except RecursionError:
        raise BundleError(path, "nested too deeply", "export again") from None
    except ValueError:
        return None


def _code(value: Any, where: str = "") -> str | None:
    """The first key, at any depth, by which transformers would import code of the bundle."""
    if isinstance(value, dict):
        for key, inner in value.items():
            place = f"{where}.{key}" if where else key
            if (key in _CODE and inner not in (None, False, {})) or (key.endswith(_KERNELS) and "/" in str(inner)):
                return place
            if found := _code(inner, place):
                return found
    elif isinstance(value, list):
        return next((found for i, inner in enumerate(value) if (found := _code(inner, f"{where}.{i}"))), None)
    return None


def _refused(path: Path, key: str) -> BundleError:
    return BundleError(path, f"{key}: not among the keys that foldrank knows, some of which run code", "remove it")
