"""Signatures: what is signed is held to be so by model-signing's own command, and by nothing else than the key."""

from __future__ import annotations

import base64
import copy
import json
import shutil
import socket
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from synthetic import Shape, random_decoder, write_bundle

from foldrank.bundle.bundle import Bundle
from foldrank.cli import main
from foldrank.errors import BundleError, FoldrankError, ProviderUnavailable, SourceError
from foldrank.verbs.sign import sign
from foldrank.verbs.verify import verify

pytest.importorskip("model_signing")
pytest.importorskip("OpenSSL")
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

PEM = serialization.Encoding.PEM


def _write(folder: Path, name: str, key: Any, password: bytes | None = None) -> None:
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    (folder / f"{name}.pem").write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, hidden))
    (folder / f"{name}.pub").write_bytes(
        key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys, and `bundle` signed by `own`."""
    folder = tmp_path_factory.mktemp("sign")
    for name, curve in (("own", ec.SECP256R1()), ("other", ec.SECP384R1()), ("odd", ec.SECP256K1())):
        _write(folder, name, ec.generate_private_key(curve))
    _write(folder, "hidden", ec.generate_private_key(ec.SECP521R1()), b"word")
    _write(folder, "rsa", rsa.generate_private_key(65537, 2048))
    write_bundle(random_decoder(Shape()), folder / "bundle")
    sign(folder / "bundle", private_key=folder / "own.pem")
    return folder


@pytest.fixture
def room(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "room"))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("the network was asked")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_model_signings_own_command_holds_the_signature_and_sees_a_changed_byte(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (command,) = entry_points(group="console_scripts", name="model_signing")
    arguments = ["verify", "key", "bundle", "--signature", "bundle.sig", "--public_key", "own.pub"]
    monkeypatch.chdir(room)
    assert "Verification succeeded" in CliRunner().invoke(command.load(), arguments).output
    (room / "bundle" / "tokenizer.json").write_text("[]")
    refused = CliRunner().invoke(command.load(), arguments)
    assert refused.exit_code == 1
    assert "tokenizer.json" in refused.output


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(("key", "password"), [("other", None), ("hidden", "word\n")])
def test_a_signed_bundle_is_verified_without_a_network_wherever_it_lies(
    room: Path, key: str, password: str | None
) -> None:
    (room / "word").write_text(password or "")
    signed = sign(room / "bundle", private_key=room / f"{key}.pem", force=True,
                  password_file=room / "word" if password else None)
    (room / "bundle").rename(room / "renamed")
    found = verify(room / "renamed", public_key=room / f"{key}.pub", signature=room / "bundle.sig",
                   require_signature=True)
    assert found["checks"][-1]["check"] == "signature"
    assert found["signature"] == {"file": str(room / "bundle.sig"), "key_sha256": signed["key_sha256"]}
    assert "signature" not in [check["check"] for check in found["not_checked"]]


def test_a_signature_nobody_judged_is_said_to_be_there(room: Path) -> None:
    assert verify(room / "bundle")["not_checked"][0]["why"] == "bundle.sig is there: give --public-key PEM"


def _elsewhere(room: Path) -> None:
    """A bundle changed and sealed again, by whoever has no key."""
    data = bytearray((room / "bundle" / "model.onnx.data").read_bytes())
    data[100] ^= 1
    Bundle.open(room / "bundle").with_files({"model.onnx.data": bytes(data)})


def _of_a_part(room: Path) -> None:
    """By the right key, over all but the manifest."""
    import model_signing

    hashing = model_signing.hashing.Config().set_ignored_paths(paths=["manifest.json"])
    signing = model_signing.signing.Config().use_elliptic_key_signer(private_key=room / "own.pem")
    signing.set_hashing_config(hashing).sign(room / "bundle", room / "bundle.sig")


@pytest.mark.parametrize(("change", "key", "error", "says"), [
    (lambda room: Bundle.open(room / "bundle").with_files({"reports/more.json": b"{}"}), "own.pub", BundleError,
     "reports/more.json.*sign again"),
    (_elsewhere, "own.pub", BundleError, r"model\.onnx\.data"),
    (lambda room: None, "other.pub", BundleError, "Key mismatch"),
    (lambda room: (room / "bundle.sig").unlink(), "own.pub", BundleError, "is not signed"),
    (_of_a_part, "own.pub", BundleError, r"leaves out manifest\.json"),
    (lambda room: (room / "bundle.sig").write_text("{"), "own.pub", BundleError, "is no signature"),
    (lambda room: (room / "bundle.sig").write_text("[" * 10_000), "own.pub", BundleError, "nested"),
    (lambda room: None, "rsa.pub", SourceError, "no public key"),
    (lambda room: None, "odd.pub", SourceError, "no public key"),
    (lambda room: None, "own.pem", SourceError, "no public key"),
    (lambda room: None, "nowhere.pub", SourceError, "cannot be read"),
])
def test_what_the_key_did_not_sign_is_refused(
    room: Path, change: Callable[[Path], object], key: str, error: type[FoldrankError], says: str
) -> None:
    change(room)
    with pytest.raises(error, match=says):
        verify(room / "bundle", public_key=room / key)


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield (*place, key)
        yield from _places(one, (*place, key))


def test_a_signature_from_a_stranger_is_refused_whatever_it_holds(room: Path) -> None:
    """Each part of it in turn is something else; only what is not signed, and names nothing, may be."""
    from foldrank.verbs.signing import check_signature

    bundle, path = Bundle.open(room / "bundle"), room / "bundle.sig"
    whole = json.loads(path.read_text())
    whole["dsseEnvelope"]["payload"] = base64.b64encode(b'{"_type": "x"}').decode()
    for place in [(), *_places(whole)]:
        for value in (None, 1, "x", [], {}, "\ud800"):
            changed = copy.deepcopy(whole) if place else value
            if place:
                target = changed
                for key in place[:-1]:
                    target = target[key]
                target[place[-1]] = value
            path.write_text(json.dumps(changed))
            with pytest.raises(BundleError):
                check_signature(bundle, path, room / "own.pub")


@pytest.mark.parametrize(("arguments", "code", "says"), [
    (["--private-key", "own.pem"], 3, "exists already"),
    (["--private-key", "own.pub", "-o", "new.sig"], 3, "no private key"),
    (["--private-key", "hidden.pem", "-o", "new.sig"], 3, "password"),
    (["--private-key", "rsa.pem", "-o", "new.sig"], 3, "no private key"),
    (["--private-key", "own.pem", "-o", "bundle/new.sig"], 3, "lies in the bundle"),
    (["-o", "new.sig"], 2, "--private-key"),
])
def test_signing_refuses_and_leaves_nothing(
    room: Path, arguments: list[str], code: int, says: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = sorted(room.rglob("*"))
    monkeypatch.chdir(room)
    assert main._run(["sign", "bundle", *arguments]) == code
    assert says in capsys.readouterr().err
    assert sorted(room.rglob("*")) == before


def test_a_damaged_bundle_is_not_signed(room: Path) -> None:
    (room / "bundle" / "config.json").write_text("{}")
    with pytest.raises(BundleError, match=r"config\.json"):
        sign(room / "bundle", room / "new.sig", private_key=room / "own.pem")
    assert not (room / "new.sig").exists()


def test_without_model_signing_the_extra_is_named(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foldrank.installed._installed", lambda name: name != "model_signing")
    with pytest.raises(ProviderUnavailable, match=r"model_signing.*foldrank\[sign\]"):
        verify(room / "bundle", public_key=room / "own.pub")
    with pytest.raises(ProviderUnavailable, match=r"foldrank\[sign\]"):
        sign(room / "bundle", private_key=room / "own.pem", force=True)
