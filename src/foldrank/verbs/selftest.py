"""selftest: does this bundle compute here what its reference computed where it was made? Needs no torch and no text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foldrank.bundle.bundle import Bundle
from foldrank.errors import BundleError
from foldrank.graph.precision import precision_of
from foldrank.graph.safe.load import load_model
from foldrank.model.facts import context_length, vocabulary
from foldrank.runtime.decoding.decoder import OrtDecoder
from foldrank.runtime.proof.selftest import FILE, LONG, ROWS, TOKENS, Said, SelfTest
from foldrank.runtime.proof.ways import ways_of
from foldrank.runtime.providers.fallback import provider_for
from foldrank.runtime.providers.provider import resolve
from foldrank.verbs.agreement import refuse_disagreement
from foldrank.verbs.proving_windows import each_once
from foldrank.versions import versions

if TYPE_CHECKING:
    from foldrank.verbs.reference import Known

_ODD = " Caf\u00e9 \u4f60\u597d 0123456789\n\tdef f(x): return [x ** 2]"


def selftest(
    bundle: str | Path | Bundle, *, provider: str = "cpu", provider_options: Mapping[str, str] | None = None,
    allow_fallback: bool = False,
    threads: int | None = None,
) -> dict[str, Any]:
    """Replay the self-test in the bundle on a provider, prefilled and decoded with the cache; changes nothing. A graph
    whose arithmetic is coarser than float32 is replayed in float32 as well.

    Gives `checks` (each: measure, value, limit, passed), `tokenizer` (whether it reads a text as it did, null where the
    `tokenizers` library is not there), `placement` and `verdict`. Raises BundleError (no self-test, configs that do not
    fit the graph), UnsafeModel, ProviderUnavailable, ValidationFailed (NaN).
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    graph = load_model(opened.model)
    refuse_disagreement(opened, graph)
    test = SelfTest.read(opened.path / FILE)
    rows = vocabulary(opened.json("config.json"))
    if rows is not None and (beyond := [token for token in test.ids if not 0 <= token < rows]):
        what = f"asks for the token {beyond[0]}, the model's embedding table has {rows:,} rows"
        raise BundleError(opened.path / FILE, what, "compress again")
    on = provider_for(provider, provider_options, allow_fallback=allow_fallback)
    decoder = OrtDecoder.open(opened.path, on, threads=threads, spinning="in_runs")
    ways = ways_of(decoder, precision_of(graph))
    checks, read = test.replay(ways), _reads(opened, test)
    return {
        "bundle": str(opened.path), "provider": on.short, "instead_of": on.instead_of,
        "dtype": opened.manifest.dtype, "precision": ways.precision,
        "reference": test.reference,
        "checks": [{"name": check.name, "positions": check.positions, "measure": check.measure, "value": check.value,
                    "limit": check.limit, "argmax_agreement": check.argmax_agreement, "passed": check.passed}
                   for check in checks],
        "tokenizer": read, "placement": decoder.session.placement,
        "threads": decoder.session.threads, "versions": versions(),
        "verdict": "pass" if all(check.passed for check in checks) and read is not False else "fail",
    }


def add_selftest(bundle: Bundle, known: Known, seed: int, *, bos: str = "auto") -> Bundle:
    """Store a self-test: windows of the installed held-out text, random tokens, a long row of such, and what the
    bundle's reference says of them; a text and its tokens."""
    from foldrank.plans.texts import cut_windows, load_tokenizer, read_text

    config = bundle.json("config.json")
    rows, text = vocabulary(config), read_text(None, "validation")
    windows = cut_windows(text, load_tokenizer(bundle.path), window=TOKENS, windows=ROWS // 2, seed=seed, bos=bos,
                          rows=rows)
    drawn = each_once(rows or int(windows.ids.max()) + 1, (ROWS - len(windows.ids), TOKENS), seed)
    drawn[:, : windows.opening.front] = windows.ids[:1, : windows.opening.front]
    short = Said.of(np.concatenate([windows.ids, drawn]), known.logits)
    length = min(context_length(config) or TOKENS, LONG)
    far = each_once(rows or int(windows.ids.max()) + 1, (1, length), seed + 1) if length > TOKENS else None
    written = str(text.documents[0])[:400] + _ODD
    test = SelfTest(short, known.described, None if far is None else Said.of(far, known.logits, TOKENS), text=written,
                    text_ids=_encoded(bundle, written))
    return bundle.with_files({FILE: replace(test, limit=_limit(bundle, known, test)).bytes()})


def _limit(bundle: Bundle, known: Known, test: SelfTest) -> float:
    """What the model's own rounding allows, where half of that would matter here: elsewhere sums have other orders."""
    decoder = OrtDecoder.open(bundle.path, resolve("cpu"), spinning="in_runs", rounds=False)
    return known.allowed([seen for _, seen in test.seen(decoder)], margin=2.0)


def _reads(bundle: Bundle, test: SelfTest) -> bool | None:
    """Whether the tokenizer makes of the text what it made of it; None where that cannot be told."""
    found = _encoded(bundle, test.text) if len(test.text_ids) else None
    return None if found is None or not len(found) else bool(np.array_equal(found, test.text_ids))


def _encoded(bundle: Bundle, text: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Tokens of a text, none where the library that reads tokenizer.json is not installed."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return np.zeros(0, np.int64)
    return np.asarray(Tokenizer.from_file(str(bundle.path / "tokenizer.json")).encode(text).ids, np.int64)
