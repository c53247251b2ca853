"""run: generate text with a bundle, from one prompt or from several at once."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from foldrank.bundle.bundle import Bundle
from foldrank.bundle.genai_settings import NAME
from foldrank.errors import BundleError
from foldrank.graph.safe.load import load_model
from foldrank.installed import missing
from foldrank.model.facts import vocabulary
from foldrank.plans.encoding import Prompts, opening_of
from foldrank.plans.texts import load_tokenizer
from foldrank.runtime.decoding.batch import with_onnxruntime
from foldrank.runtime.decoding.genai import OFFERED
from foldrank.runtime.decoding.generate import Generated, with_genai
from foldrank.runtime.decoding.sampling import Sampling
from foldrank.runtime.providers.fallback import provider_for
from foldrank.runtime.providers.provider import Provider
from foldrank.verbs.agreement import refuse_disagreement


def run(
    bundle: str | Path | Bundle, prompt: str | Sequence[str], *, max_new_tokens: int = 64, temperature: float = 0.0,
    top_k: int = 50, top_p: float = 1.0, seed: int = 0, bos: str = "auto", provider: str = "cpu",
    provider_options: Mapping[str, str] | None = None, allow_fallback: bool = False,
    threads: int | None = None, stream: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Continue `prompt`, greedily unless `temperature` is above 0; `stream` is handed each new piece of text.

    `bos`: whether the beginning-of-text token stands in front of a prompt: "auto" as the tokenizer does, "always",
    "never". Without transformers onnxruntime-genai encodes a prompt as it does by itself, and "auto" is all there is.

    Gives prompt, text (the continuation), tokens, seconds, tokens_per_second and engine: onnxruntime-genai, or
    onnxruntime where that is not installed or lacks the provider.

    A list of prompts is decoded in one batch with onnxruntime, prompt n (from 0) as it would be alone with seed + n.
    Gives rows (prompt, text, prompt_tokens and tokens of each), and seconds and tokens_per_second of all together.
    Raises ValueError, SourceError, BundleError, ProviderUnavailable.
    """
    _check(prompt, max_new_tokens, stream)
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    refuse_disagreement(opened, load_model(opened.model))
    context = (opened.json(NAME) or {"model": {}})["model"].get("context_length")
    if context is None:
        raise BundleError(opened.path / NAME, "does not tell model.context_length", "export again")
    options: dict[str, Any] = {
        "tokens": max_new_tokens, "sampling": Sampling(temperature, top_k, top_p, seed), "threads": threads,
        "context": context, "told": stream,
    }
    engine = provider_for(provider, provider_options, allow_fallback=allow_fallback)
    if not isinstance(prompt, str):
        return _several(opened, prompt, engine, bos, options)
    if engine.short in OFFERED and importlib.util.find_spec("onnxruntime_genai"):
        ids = None if missing(("transformers",)) and bos == "auto" else _prompts(opened, bos).encode(prompt)
        made = with_genai(opened.path, prompt, engine, ids=ids, rows=_rows(opened), **options)
    else:
        [made] = _with_onnxruntime(opened, [prompt], engine, bos, options)
    return {
        "prompt": prompt, "text": made.text, "prompt_tokens": made.prompt_tokens, "tokens": made.tokens,
        "seconds": made.seconds, "tokens_per_second": len(made.tokens) / made.seconds, "engine": made.engine,
        "provider": engine.short, "instead_of": engine.instead_of,
    }


def _check(prompt: str | Sequence[str], max_new_tokens: int, stream: Callable[[str], None] | None) -> None:
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be 1 or more, not {max_new_tokens}")
    if not isinstance(prompt, str) and not prompt:
        raise ValueError("no prompt was given")
    if not isinstance(prompt, str) and stream is not None:
        raise ValueError("several prompts are not streamed: their texts grow side by side")


def _several(
    opened: Bundle, prompts: Sequence[str], engine: Provider, bos: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    """All prompts in one batch."""
    rows = _with_onnxruntime(opened, prompts, engine, bos, options)
    return {
        "rows": [
            {"prompt": prompt, "text": row.text, "prompt_tokens": row.prompt_tokens, "tokens": row.tokens}
            for prompt, row in zip(prompts, rows, strict=True)
        ],
        "seconds": rows[0].seconds, "tokens_per_second": sum(len(row.tokens) for row in rows) / rows[0].seconds,
        "engine": rows[0].engine, "provider": engine.short, "instead_of": engine.instead_of,
    }


def _with_onnxruntime(
    opened: Bundle, prompts: Sequence[str], engine: Provider, bos: str, options: Mapping[str, Any]
) -> list[Generated]:
    encoder = _prompts(opened, bos)
    return with_onnxruntime(opened.path, prompts, engine, encoder, ends=_ends(opened, encoder.tokenizer), **options)


def _prompts(opened: Bundle, bos: str) -> Prompts:
    tokenizer = load_tokenizer(opened.path)
    return Prompts(tokenizer, opening_of(tokenizer, bos), _rows(opened))


def _rows(opened: Bundle) -> int | None:
    """Of the model's embedding table."""
    return vocabulary(opened.json("config.json"))


def _ends(opened: Bundle, tokenizer: Any) -> list[int]:
    """The end-of-text tokens: those that onnxruntime-genai would heed, none where no file named one."""
    ends = opened.json(NAME)["model"].get("eos_token_id", tokenizer.eos_token_id)
    return ends if isinstance(ends, list) else [] if ends is None else [ends]
