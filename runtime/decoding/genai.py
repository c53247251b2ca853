"""Decode with onnxruntime-genai through the same two calls as `decoding.OrtDecoder`, for timing and for comparison.

The library picks its own thread count unless told: it is set here. Axes: B rows, T tokens.
"""

from __future__ import annotations

import json
import shutil
import weakref
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from foldrank import strictjson
from foldrank.bundle.genai_settings import NAME, settings
from foldrank.errors import ProviderUnavailable, SourceError
from foldrank.runtime.decoding.decoder import Tokens
from foldrank.runtime.providers.provider import Provider, load_genai
from foldrank.runtime.sessions.session import Spinning, default_threads, spinning_entries

_NAMES = {"cpu": "cpu", "cuda": "cuda"}
OFFERED = frozenset(_NAMES)
"""Short names of the providers it runs bundles on."""


class GenaiDecoder:
    """A generator over a bundle. End of text is forbidden, so that every row lasts as long as it is asked.

    On CUDA the option `enable_cuda_graph=1` is for one row only: version 0.18 reads a prompt of several rows with a
    mask as long as the cache, which GroupQueryAttention refuses. So it is off unless asked for.
    """

    def __init__(self, model: Any, library: Any, capacity: int, *, folder: Path, view: Path) -> None:
        """Use `open`. `capacity`: positions of the cache, prompt and continuation together. `view`: the folder that the
        library loaded and reads the tokenizer from; it goes when this object does."""
        self._gone = weakref.finalize(self, shutil.rmtree, view, ignore_errors=True)
        self.model, self.capacity = model, capacity
        self._library, self.folder = library, folder
        self._generator: Any = None
        self._fresh = 0

    @classmethod
    def open(
        cls, folder: Path, provider: Provider, *, capacity: int, threads: int | None = None,
        spinning: Spinning = "always",
    ) -> GenaiDecoder:
        """Load a bundle. Raises ProviderUnavailable (library or provider), SourceError (a bundle it cannot load)."""
        if provider.short not in _NAMES:
            where = f"onnxruntime-genai on {provider.short}"
            raise ProviderUnavailable(where, "is not offered", "--provider cpu or cuda")
        library, ours = load_genai(), settings(folder / NAME)
        view = _view(folder, ours)
        try:
            config = _config(library, view, provider, threads or default_threads(), spinning)
            return cls(library.Model(config), library, capacity, folder=folder, view=view)
        except (RuntimeError, OSError) as error:
            shutil.rmtree(view, ignore_errors=True)
            reason = " ".join(str(error).split())[:400]
            if provider.short != "cpu":
                where = f"onnxruntime-genai on {provider.short}"
                raise ProviderUnavailable(where, reason, "`foldrank doctor` tells what starts") from None
            raise SourceError(folder, f"onnxruntime-genai cannot load it: {reason}", "export or apply again") from None

    @classmethod
    def with_defaults(cls, folder: Path) -> GenaiDecoder:
        """As the library opens a bundle that leaves threads and spinning to it. Raises as `open` does."""
        library, ours = load_genai(), settings(folder / NAME)
        decoder = ours["model"].get("decoder") or {}
        (decoder.get("session_options") or {}).pop("intra_op_num_threads", None)
        view = _view(folder, ours)
        try:
            return cls(library.Model(str(view)), library, capacity=1, folder=folder, view=view)
        except (RuntimeError, OSError) as error:
            shutil.rmtree(view, ignore_errors=True)
            raise SourceError(folder, f"onnxruntime-genai cannot load it: {error}", "export again") from None

    def tokenizer(self) -> Any:
        """The library's own reading of tokenizer.json. Raises SourceError where it knows no such tokenizer."""
        try:
            return self._library.Tokenizer(self.model)
        except RuntimeError as error:
            what = f"onnxruntime-genai cannot read its tokenizer: {' '.join(str(error).split())[:400]}"
            raise SourceError(self.folder, what, "save the tokenizer as transformers writes it, and export again"
                              ) from None

    def prepare(self, rows: int) -> None:
        """Make the generator: about 12 ms in version 0.18 whatever the model, so the benchmark counts it apart."""
        parameters = self._library.GeneratorParams(self.model)
        parameters.set_search_options(
            do_sample=False, batch_size=rows, max_length=self.capacity, min_length=self.capacity
        )
        try:
            self._generator, self._fresh = self._library.Generator(self.model, parameters), rows
        except RuntimeError as error:
            raise cannot_run(self.folder, error) from None

    def first(self, prompt_BT: Tokens) -> Tokens:
        """Forget everything, read prompts of equal length, give each row's likeliest next token [B]."""
        rows = len(prompt_BT)
        if self._fresh != rows:
            self.prepare(rows)
        self._fresh = 0
        ids = np.ascontiguousarray(prompt_BT, dtype=np.int32)
        try:
            self._generator.append_tokens(ids if rows > 1 else ids[0])
        except RuntimeError as error:
            raise cannot_run(self.folder, error) from None
        return self.next()

    def next(self) -> Tokens:
        """The next tokens [B]; after the first call of a prompt each costs one run of the model."""
        self._generator.generate_next_token()
        return np.asarray(self._generator.get_next_tokens(), dtype=np.int64)

    def generate(self, prompt_BT: Tokens, tokens: int) -> Tokens:
        """Greedy continuation [B, tokens] in which end of text never occurs."""
        steps = [self.first(prompt_BT), *(self.next() for _ in range(tokens - 1))]
        return np.stack(steps, axis=1)


def cannot_run(folder: Path, error: RuntimeError) -> SourceError:
    """What the library says of a bundle that it has opened."""
    what = f"onnxruntime-genai cannot run it: {' '.join(str(error).split())[:400]}"
    return SourceError(folder, what, "`foldrank validate` tells what does not fit; export or apply again")


def _view(folder: Path, ours: Mapping[str, Any]) -> Path:
    """A folder of links to the bundle's files with our genai_config.json: the library never reads the bundle's own."""
    bare = Path(mkdtemp(prefix="foldrank."))
    for path in folder.absolute().iterdir():
        if path.name != NAME:
            (bare / path.name).symlink_to(path)
    (bare / NAME).write_text(strictjson.dumps(ours), encoding="utf-8")
    return bare


def _config(library: Any, folder: Path, provider: Provider, threads: int, spinning: Spinning) -> Any:
    config = library.Config(str(folder))
    config.clear_providers()
    if provider.short != "cpu":
        config.append_provider(_NAMES[provider.short])
        for key, value in provider.options.items():
            config.set_provider_option(_NAMES[provider.short], key, value)
    options = {"intra_op_num_threads": threads, "inter_op_num_threads": 1, **spinning_entries(spinning)}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
    return config
