"""verify: what was looked at is named, what was not too, and whatever was changed is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic import PlanMaker, Shape, random_decoder, sealed, write_bundle

from foldrank import verified
from foldrank.bundle.bundle import Bundle, seal
from foldrank.cli import main
from foldrank.errors import BundleError, FoldrankError, PlanFormatError, SourceError, UnsafeModel
from foldrank.verbs.apply import apply
from foldrank.verbs.verify import verify


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `dense`, whose manifest notes its weights, a `plan` of it and `small`, what comes of it."""
    folder, decoder = tmp_path_factory.mktemp("verify"), random_decoder(Shape())
    dense = sealed(write_bundle(decoder, folder / "dense"))
    plan = PlanMaker(decoder, dense.manifest.source["config_sha256"]).low_rank("block.03.q", 5).plan()
    (folder / "plan").mkdir()
    plan.write(folder / "plan")
    apply(dense, plan, folder / "small")
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def _again(folder: Path, **more: object) -> None:
    """Sealed by whoever changed it, so that its digests hold."""
    source = Bundle.open(folder).manifest.source if not more else more["source"]
    (folder / "manifest.json").unlink()
    seal(folder, command="test", seed=0, source=source, exporter="genai", dtype="fp32",  # type: ignore[arg-type]
         versions={})


@pytest.mark.parametrize(("name", "checks", "not_checked"), [
    ("dense", ["files", "configs", "graph", "weights"], ["signature", "numbers"]),
    ("small", ["files", "configs", "graph", "plan", "reports"], ["signature", "numbers", "weights"]),
    ("plan", ["plan"], ["signature"]),
])
def test_what_was_checked_is_listed_and_what_was_not(
    made: Path, name: str, checks: list[str], not_checked: list[str]
) -> None:
    found = verify(made / name)
    assert [check["check"] for check in found["checks"]] == checks
    assert [check["check"] for check in found["not_checked"]] == not_checked
    if name != "plan":
        manifest = (made / name / "manifest.json").read_bytes()
        assert found["manifest_sha256"] == hashlib.sha256(manifest).hexdigest()
        assert f"{len(json.loads(manifest)['files'])} files" in found["checks"][0]["found"]


def _flip(path: Path, place: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def _function(folder: Path) -> None:
    import onnx
    from onnx import helper

    model = onnx.load(folder / "model.onnx", load_external_data=False)
    model.functions.append(helper.make_function("evil", "F", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])],
                                                [helper.make_opsetid("", 22)]))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    _again(folder, source={})


def _other_model(folder: Path) -> None:
    _again(folder, source={"name": "other", "config_sha256": "0" * 64})


def _odd_report(folder: Path) -> None:
    Bundle.open(folder).with_files({"reports/validate.json": b'{"verdict": "pass"}'})


def _other_weights(folder: Path) -> None:
    bundle = Bundle.open(folder)
    sealed(bundle, bundle.weight_digests | {"block.02.up": "0" * 64})


@pytest.mark.parametrize(("name", "change", "error", "says"), [
    ("dense", lambda f: _flip(f / "model.onnx.data"), BundleError, "model.onnx.data has another sha256"),
    ("dense", lambda f: (f / "library.so").write_bytes(b""), BundleError, "library.so is not in the manifest"),
    ("dense", _function, UnsafeModel, "functions"),
    ("dense", _other_weights, BundleError, "block.02.up"),
    ("small", _other_model, BundleError, "another model"),
    ("small", _odd_report, BundleError, "validate.json"),
    ("small", lambda f: (f / "manifest.json").unlink(), BundleError, "not a bundle"),
    ("plan", lambda f: _flip(f / "factors.safetensors"), PlanFormatError, "sha256"),
    ("plan", lambda f: (f / "plan.json").write_text((f / "plan.json").read_text().replace('"rank": 5', '"rank": 4')),
     PlanFormatError, "digest does not fit|disagree|rank"),
    ("nothing", lambda f: None, SourceError, "no such folder"),
])
def test_what_was_changed_is_refused_by_name(
    copy: Path, name: str, change: Callable[[Path], object], error: type[FoldrankError], says: str
) -> None:
    change(copy / name)
    with pytest.raises(error, match=says) as caught:
        verify(copy / name)
    assert caught.value.exit_code == (3 if error is SourceError else 4)


def test_every_byte_is_read_anew_whatever_was_hashed_before(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A digest that is remembered of a file's state, and wrong: as where a disk lost a bit."""
    monkeypatch.setattr(verified, "MIN_BYTES", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(copy / "cache"))
    data = copy / "dense" / "model.onnx.data"
    old = hashlib.sha256(data.read_bytes()).hexdigest()
    _flip(data)
    place = verified._place(data)
    assert place is not None
    place.parent.mkdir(parents=True)
    place.write_text(old)
    Bundle.open(copy / "dense")
    with pytest.raises(BundleError, match="another sha256"):
        verify(copy / "dense")


def test_a_file_that_cannot_be_read_is_no_bug_of_ours(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("foldrank.verbs.verify.sha256_file", denied)
    with pytest.raises(SourceError, match=r"cannot be read: Permission denied"):
        verify(copy / "dense")


@pytest.mark.parametrize(("arguments", "code", "says"), [
    (["dense"], 0, "not checked: signature"),
    (["dense", "--require-signature"], 2, "--public-key"),
    (["dense", "--signature", "dense.sig"], 2, "--public-key"),
    (["plan", "--public-key", "key.pem"], 2, "signatures are of bundles"),
    (["dense", "--public-key", "key.pem"], 4, "is not signed"),
    (["nowhere"], 3, "no such folder"),
])
def test_the_exit_code_says_what_happened(
    made: Path, arguments: list[str], code: int, says: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(made)
    said: list[str] = []
    monkeypatch.setattr("foldrank.cli.output.say", said.append)
    assert main._run(["verify", *arguments]) == code
    assert says in "\n".join([*said, capsys.readouterr().err])
