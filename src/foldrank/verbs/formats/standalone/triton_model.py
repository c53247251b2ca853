"""Triton's Python back end over onnxruntime-genai: a prompt in, its continuation out, whole or piece by piece.

Decoupled: a request gets one response, or with `stream` one for each piece, and then the final flag. Copied into
packages.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import triton_python_backend_utils as pb
from foldrank_generation import Model

DEFAULTS: dict[str, Any] = {"max_tokens": 64, "temperature": 0.0, "top_p": 1.0, "top_k": 50, "seed": 0}


class TritonPythonModel:
    """What Triton looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the bundle that lies beside this file, on the device of the instance."""
        settings = json.loads(args["model_config"]).get("parameters", {})
        front = json.loads(settings.get("front_tokens", {}).get("string_value", "[]"))
        folder = os.path.join(args["model_repository"], args["model_version"], "bundle")
        device = "cuda" if args.get("model_instance_kind") == "GPU" else "cpu"
        self._model = Model(folder, front=front, device=device)

    def execute(self, requests: list[Any]) -> None:
        """One after the other; more at once takes more instances (`instance_group`)."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._answer(request, sender)
            except Exception as error:  # noqa: BLE001 - a request that fails is its own fault, not the server's
                sender.send(pb.InferenceResponse(error=pb.TritonError(str(error))),
                            flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _answer(self, request: Any, sender: Any) -> None:
        prompt = _given(request, "text_input")
        if prompt is None:
            raise ValueError("text_input is missing")
        text = prompt.decode("utf-8") if isinstance(prompt, bytes) else str(prompt)
        options = {name: default if (given := _given(request, name)) is None else type(default)(given)
                   for name, default in DEFAULTS.items()}
        stream, written = bool(_given(request, "stream")), []
        for _, piece in self._model.write(self._model.encode(text), **options):
            if sender.is_cancelled():
                break
            if stream and piece:
                sender.send(_response(piece))
            written.append(piece)
        if not stream:
            sender.send(_response("".join(written)))
        sender.send(flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _given(request: Any, name: str) -> Any:
    """The one value of an input, None where it was not sent."""
    tensor = pb.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy().reshape(-1)[0]


def _response(text: str) -> Any:
    return pb.InferenceResponse([pb.Tensor("text_output", np.array([text.encode("utf-8")], dtype=object))])
