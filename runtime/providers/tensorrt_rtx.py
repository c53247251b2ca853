"""TensorRT RTX, a plugin: the provider with the shape profiles and the cache that its session is to be given.

Its package brings TensorRT RTX itself, whose parser knows ONNX's own operators and, by its plugins, those of ONNX
Runtime's that the builder writes (GroupQueryAttention, MatMulNBits, SkipSimplifiedLayerNormalization). Networks are
strongly typed: no option lowers a precision. Options are those of `tensorrt_rtx_provider_options.h` in the package. Not
verified on hardware.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from foldrank.graph.summary import summary_of
from foldrank.runtime.providers import plugins
from foldrank.runtime.providers.provider import Provider
from foldrank.runtime.providers.tensorrt import profiled
from foldrank.runtime.providers.tensorrt_cache import rtx_cache_options
from foldrank.runtime.providers.tensorrt_profile import OURS, RTX, check_options


def prepared(model: Path, provider: Provider) -> Provider:
    """The provider with the options that a session of this model.onnx is given; what the user gave wins.

    Raises ValueError for options of ours that make no sense; GraphNotRecognized, SourceError, UnsafeModel;
    ProviderUnavailable where the package went.
    """
    check_options(provider.options, RTX)
    graph = summary_of(model)
    given = {name: value for name, value in provider.options.items() if name not in OURS}
    options = {**profiled(model, graph, provider, RTX), **given}
    plugin = plugins.find(provider.short)
    version = f"{plugin.distribution} {plugin.version}" if plugin else ""
    return replace(provider, options={**rtx_cache_options(model, graph.data_files, options, version), **options})
