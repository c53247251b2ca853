"""selftest: does this bundle compute here what its reference computed where it was made? Needs no torch and no text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foldrank.bundle.bundle import Bundle
from foldrank.errors import BundleError
from foldrank.model.facts import vocabulary
from foldrank.runtime.decoding.decoder import OrtDecoder
from foldrank.runtime.proof.selftest import FILE, ROWS, TOKENS, SelfTest, precision_of
from foldrank.runtime.providers.fallback import provider_for
from foldrank.tolerances import INT8
from foldrank.verbs.safely import refuse_unsafe
from foldrank.versions import versions

if TYPE_CHECKING:
    from foldrank.verbs.reference import Known


def selftest(
    bundle: str | Path | Bundle, *, provider: str = "cpu", provider_options: Mapping[str, str] | None = None,
    allow_fallback: bool = False,
    threads: int | None = None,
) -> dict[str, Any]:
    """Replay the self-test in the bundle on a provider, prefilled and decoded with the cache; changes nothing. A graph
    that rounds activations, and fails by that, is replayed without (`precision`, and its limit, tell).

    Gives `checks` (each: value, limit, passed), `placement` and `verdict`. Raises BundleError (no self-test),
    ProviderUnavailable, ValidationFailed (NaN).
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    refuse_unsafe(opened)
    test = SelfTest.read(opened.path / FILE)
    rows = vocabulary(opened.json("config.json"))
    if rows is not None and (beyond := test.ids[(test.ids < 0) | (test.ids >= rows)]).size:
        what = f"asks for the token {beyond[0]}, the model's embedding table has {rows:,} rows"
        raise BundleError(opened.path / FILE, what, "compress again")
    on = provider_for(provider, provider_options, allow_fallback=allow_fallback)
    decoder = OrtDecoder.open(opened.path, on, threads=threads, spinning="in_runs")
    precision = precision_of(opened.manifest.dtype, on, int8=test.int8)
    checks = test.replay(decoder, precision)
    if test.int8 and not all(check["passed"] for check in checks):
        decoder = OrtDecoder.open(opened.path, on, threads=threads, spinning="in_runs", rounds=False)
        precision = precision_of(opened.manifest.dtype, on)
        checks = test.replay(decoder, precision)
    return {
        "bundle": str(opened.path), "provider": on.short, "instead_of": on.instead_of,
        "dtype": opened.manifest.dtype, "precision": precision,
        "reference": test.reference, "checks": checks, "placement": decoder.session.placement,
        "threads": decoder.session.threads, "versions": versions(),
        "verdict": "pass" if all(check["passed"] for check in checks) else "fail",
    }


def add_selftest(bundle: Bundle, known: Known, seed: int, *, bos: str = "auto") -> Bundle:
    """Store a self-test: windows of the installed held-out text and what the bundle's reference says of them."""
    from foldrank.plans.texts import cut_windows, load_tokenizer, read_text

    ids_NT = cut_windows(
        read_text(None, "validation"), load_tokenizer(bundle.path), window=TOKENS, windows=ROWS, seed=seed, bos=bos,
        rows=vocabulary(bundle.json("config.json")),
    ).ids
    test = SelfTest.of(ids_NT, known.logits, known.described, int8=known.precision == INT8)
    return bundle.with_files({FILE: test.bytes()})
