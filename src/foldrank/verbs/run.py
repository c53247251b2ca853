"""run: generate text with a bundle."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from foldrank.bundle import Bundle
from foldrank.plans.texts import load_tokenizer
from foldrank.runtime.fallback import provider_for
from foldrank.runtime.genai import OFFERED
from foldrank.runtime.generate import Sampling, with_genai, with_onnxruntime


def run(
    bundle: str | Path | Bundle, prompt: str, *, max_new_tokens: int = 64, temperature: float = 0.0, top_k: int = 50,
    top_p: float = 1.0, seed: int = 0, provider: str = "cpu", provider_options: Mapping[str, str] | None = None,
    allow_fallback: bool = False,
    threads: int | None = None, stream: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Continue `prompt`, greedily unless `temperature` is above 0; `stream` is handed each new piece of text.

    Gives prompt, text (the continuation), tokens, seconds, tokens_per_second and engine: onnxruntime-genai, or
    onnxruntime where that is not installed or lacks the provider. Raises SourceError, BundleError, ProviderUnavailable.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be 1 or more, not {max_new_tokens}")
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    options: dict[str, Any] = {
        "tokens": max_new_tokens, "sampling": Sampling(temperature, top_k, top_p, seed), "threads": threads,
        "context": opened.json("genai_config.json")["model"]["context_length"], "told": stream or _nobody,
    }
    engine = provider_for(provider, provider_options, allow_fallback=allow_fallback)
    if engine.short in OFFERED and importlib.util.find_spec("onnxruntime_genai"):
        made = with_genai(opened.path, prompt, engine, **options)
    else:
        tokenizer: Any = load_tokenizer(opened.path)
        made = with_onnxruntime(opened.path, prompt, engine, tokenizer, **options)
    return {
        "prompt": prompt, "text": made.text, "prompt_tokens": made.prompt_tokens, "tokens": made.tokens,
        "seconds": made.seconds, "tokens_per_second": len(made.tokens) / made.seconds, "engine": made.engine,
        "provider": engine.short, "instead_of": engine.instead_of,
    }


def _nobody(_text: str) -> None:
    """Nobody listens."""
