"""serve: a bundle behind an OpenAI-compatible endpoint, once it has shown that it works here."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from foldrank.bundle.bundle import Bundle
from foldrank.errors import ValidationFailed
from foldrank.graph.safe.load import load_model
from foldrank.installed import require
from foldrank.model.facts import vocabulary
from foldrank.runtime.decoding.genai import GenaiDecoder
from foldrank.runtime.decoding.sampling import Sampling
from foldrank.runtime.decoding.writing import Writer
from foldrank.runtime.proof.selftest import FILE
from foldrank.runtime.providers.fallback import provider_for
from foldrank.runtime.providers.provider import Provider
from foldrank.verbs.agreement import refuse_disagreement
from foldrank.verbs.selftest import selftest

KEY = "FOLDRANK_API_KEY"
"""Variable that holds what clients must send as their API key; on a command line every user of the machine reads it."""


def serve(
    bundle: str | Path | Bundle, *, host: str = "127.0.0.1", port: int = 8000, name: str | None = None,
    provider: str = "cpu", provider_options: Mapping[str, str] | None = None, allow_fallback: bool = False,
    threads: int | None = None, bos: str = "auto", chat_template: Path | None = None, texts: int = 1,
    waiting: int = 16, max_new_tokens: int = 1024, max_body_bytes: int = 1 << 20, patience_s: float = 30.0,
    check: bool = True, ready: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Answer /v1/chat/completions, /v1/completions, /v1/models, /health and /metrics until SIGTERM or SIGINT.

    Before it listens the graph passes the safe loader, the configs agree with it, the self-test that the bundle has
    (none where it was only exported) passes unless `check` is off, and onnxruntime-genai writes a token. `texts` are
    written at once, `waiting` more wait, whatever is beyond is refused with 429. `name`: the model's, by default the
    folder's. `ready` is told where it listens. Raises ValueError, SourceError, BundleError, UnsafeModel,
    ValidationFailed (the self-test), ProviderUnavailable.
    """
    require({"fastapi": "serve", "uvicorn": "serve", "onnxruntime_genai": "cpu"})
    from foldrank.verbs.serving.app import LOOPBACK, Limits, Served
    from foldrank.verbs.serving.encoding import Encoder, read_template
    from foldrank.verbs.serving.server import listening, run
    from foldrank.verbs.serving.writers import Writers

    if min(texts, max_new_tokens, max_body_bytes) < 1 or waiting < 0:
        raise ValueError("texts, max_new_tokens and max_body_bytes are 1 or more, waiting 0 or more")
    limits = Limits(texts=texts, waiting=waiting, new_tokens=max_new_tokens, body_bytes=max_body_bytes)
    template = None if chat_template is None else read_template(chat_template)
    at = listening(host, port)
    try:
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        engine = provider_for(provider, provider_options, allow_fallback=allow_fallback)
        checked = _check(opened, engine, threads) if check else False
        writer = _writer(opened, engine, threads)
        encoder = Encoder(opened.path, writer, bos=bos, template=template)
        address, bound = at.getsockname()[:2]
        local = address in ("127.0.0.1", "::1")
        served = Served(
            name=name or opened.path.name, model=writer, encoder=encoder, vocabulary=_words(opened),
            writers=Writers(texts, waiting), limits=limits, key=os.environ.get(KEY) or None,
            hosts=LOOPBACK if local else (),
        )
        if ready is not None:
            shown = f"[{address}]" if ":" in address else address
            ready({"url": f"http://{shown}:{bound}/v1", "model": served.name, "provider": engine.short,
                   "instead_of": engine.instead_of, "selftest": checked, "local": local,
                   "api_key": served.key is not None, "context_tokens": writer.context, "texts": texts,
                   "waiting": waiting, "max_new_tokens": max_new_tokens, "max_body_bytes": max_body_bytes})
        run(served, at, patience_s=patience_s)
    finally:
        at.close()


def _check(bundle: Bundle, engine: Provider, threads: int | None) -> bool:
    """Replay the bundle's self-test, where it has one; whether it has."""
    if FILE not in bundle.manifest.files:
        return False
    found = selftest(bundle, provider=engine.short, provider_options=engine.options, threads=threads)
    if found["verdict"] == "fail":
        raise ValidationFailed(bundle.path, f"its self-test fails on {engine.short}, so it is not served",
                               "`foldrank selftest` tells what differs; --no-selftest serves it all the same")
    return True


def _writer(bundle: Bundle, engine: Provider, threads: int | None) -> Writer:
    """The model, opened by onnxruntime-genai, after it wrote a token."""
    refuse_disagreement(bundle, load_model(bundle.model))
    context = int(bundle.json("genai_config.json")["model"]["context_length"])
    decoder = GenaiDecoder.open(bundle.path, engine, capacity=context, threads=threads)
    writer = Writer(decoder, context=context, rows=vocabulary(bundle.json("config.json")))
    try:
        list(writer.begin([0], tokens=1, sampling=Sampling()))
    except RuntimeError as error:
        said = " ".join(str(error).split())[:300]
        raise ValidationFailed(bundle.path, f"onnxruntime-genai opens it and cannot write a token: {said}",
                               "`foldrank run` may with another --provider") from None
    return writer


def _words(bundle: Bundle) -> int:
    return vocabulary(bundle.json("config.json")) or int(bundle.json("genai_config.json")["model"]["vocab_size"])
