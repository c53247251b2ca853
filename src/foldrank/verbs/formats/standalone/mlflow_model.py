"""An MLflow pyfunc over onnxruntime-genai: a table of prompts in, a list of continuations out. Copied into packages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
from foldrank_generation import Model


class Generator(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """What MLflow loads: from code, so nothing is unpickled."""

    def load_context(self, context: Any) -> None:
        """Open the bundle among the artefacts."""
        settings = json.loads(Path(context.artifacts["settings"]).read_text(encoding="utf-8"))
        self._model = Model(context.artifacts["bundle"], front=settings["front_tokens"])

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # MLflow reads hints itself
        """The continuation of each prompt; `params` as the signature names them."""
        given = dict(params or {})
        options = {"max_tokens": int(given.get("max_tokens", 64)), "temperature": float(given.get("temperature", 0.0)),
                   "top_p": float(given.get("top_p", 1.0)), "top_k": int(given.get("top_k", 50)),
                   "seed": int(given.get("seed", 0))}
        return ["".join(text for _, text in self._model.write(self._model.encode(prompt), **options))
                for prompt in model_input["prompt"]]


mlflow.models.set_model(Generator())
