"""The releases of transformers that exporters need: each imports names, or traces a form, that older ones lack."""

from __future__ import annotations

from importlib.metadata import version

from foldrank.errors import NotWritable
from foldrank.installed import missing, release

FIRST = {"genai": (5, 2), "transformers": (5, 15)}
"""Of onnxruntime-genai's builder (0.18), which imports classes of Qwen 3.5; of transformers.exporters, which traces one
graph for prompt and decoding from then on. The last release tried stands in setup.cfg as a bound: what they name their
inputs has changed before."""


def check_transformers(exporter: str) -> None:
    """Raise NotWritable where transformers is not there, or older than that exporter needs."""
    where, needed = f"exporter {exporter}", ".".join(map(str, FIRST[exporter]))
    if missing(("transformers",)):
        raise NotWritable(where, "transformers is not installed", "pip install 'foldrank[torch]'")
    if release("transformers") < FIRST[exporter]:
        raise NotWritable(where, f"needs transformers {needed} or newer, and {version('transformers')} is installed",
                          f"pip install 'transformers>={needed}', or take --exporter optimum")
