"""serve: nothing is listened to before the bundle has shown that it works; the port is free again where it has not."""

import socket
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("onnxruntime_genai")

from synthetic.bundles import sealed, write_bundle
from synthetic.decoders import Shape, random_decoder

import foldrank.verbs.serve as verb
from foldrank.bundle.bundle import Bundle
from foldrank.errors import ProviderUnavailable, SourceError, ValidationFailed
from foldrank.runtime.proof.selftest import FILE


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    made = write_bundle(random_decoder(Shape()), tmp_path / "bundle")
    (made.path / FILE).parent.mkdir(exist_ok=True)
    (made.path / FILE).write_bytes(b"asked")
    return sealed(made)


def test_a_bundle_that_fails_its_self_test_is_not_served(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(verb, "selftest", lambda *given, **_: asked.append(given) or {"verdict": "fail"})
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ValidationFailed, match="its self-test fails on cpu"):
        verb.serve(bundle, port=port)
    assert asked == [(bundle,)]
    socket.create_server(("127.0.0.1", port)).close()


def test_a_port_that_is_taken_is_told(bundle: Bundle) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SourceError, match="cannot be listened on"):
        verb.serve(bundle, port=taken.getsockname()[1])


def test_a_missing_library_is_named_with_its_extra(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foldrank.installed._installed", lambda name: name != "fastapi")
    with pytest.raises(ProviderUnavailable, match=r"fastapi: is not installed; pip install 'foldrank\[serve\]'"):
        verb.serve(bundle)


@pytest.mark.parametrize("wrong", [{"texts": 0}, {"waiting": -1}, {"max_new_tokens": 0}, {"max_body_bytes": 0}])
def test_limits_that_serve_nobody(wrong: dict[str, int], bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        verb.serve(bundle, **wrong)  # type: ignore[arg-type]
