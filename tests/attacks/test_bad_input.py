"""Bad input on the command line: one line (where, what, what to do), the right exit code, nothing left behind."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from nightly import NIGHTLY

from foldrank.cli import main
from foldrank.runtime.providers.provider import Provider

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"}


def foldrank(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "foldrank", *map(str, arguments)], capture_output=True, text=True,
                          env=ENVIRONMENT, timeout=300, **options)  # type: ignore[call-overload]


Here = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str]) -> Here:
    """The same in this process: what takes long in a new one is to start."""
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        ended = main._run(list(map(str, arguments)))
        return subprocess.CompletedProcess(arguments, ended, "", capsys.readouterr().err)

    return run


def refused(found: subprocess.CompletedProcess[str], code: int, *says: str) -> None:
    lines = [line for line in found.stderr.splitlines() if line.startswith("error: ")]
    assert found.returncode == code, found.stderr
    assert len(lines) == 1, found.stderr
    assert "Traceback" not in found.stderr
    for word in says:
        assert word in lines[0]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def plan(specs_5m: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from foldrank.benchmarks.speed_plans import fold_plan
    from foldrank.model.checkpoint import Checkpoint

    target = tmp_path_factory.mktemp("plan") / "plan"
    target.mkdir()
    fold_plan(Checkpoint.open(specs_5m), 4).write(target)
    return target


@pytest.fixture
def copy(dense_5m: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(dense_5m, tmp_path / "copy"))


METHOD = ("--method", "slm:keep=0.75")


@pytest.mark.parametrize(("arguments", "code", "says"), [
    (("plan", "nowhere", "-o", "out", *METHOD), 3, ("nowhere",)),
    (("export", ".", "-o", "out"), 3, ("config.json",)),
    (("plan", "{model}", "-o", "out", "--method", "slm:keep=0"), 2, ("keep",)),
    (("plan", "{model}", "-o", "out", "--method", "slm:keep=1.5"), 2, ("keep",)),
    (("plan", "{model}", "-o", "out", "--method", "dipsvd:keep=nan"), 2, ("keep",)),
    (("plan", "{model}", "-o", "out", "--method", "magic:keep=0.5"), 2, ("magic", "dipsvd", "slm")),
    (("plan", "{model}", "-o", "out", "--method", "slm:kepe=0.5"), 2, ("kepe", "keep")),
    (("plan", "{model}", "-o", "out"), 2, ("--method",)),
    (("plan", "{model}", "-o", "there", *METHOD), 3, ("there", "--force")),
    (("plan", "{model}", "-o", "out", *METHOD, "--calibration", "short.txt"), 3, ("short.txt", "token")),
    (("plan", "{model}", "-o", "out", *METHOD, "--calibration", "missing.txt"), 3, ("missing.txt",)),
    (("plan", "{model}", "-o", "out", "--recipe", "bad.yaml"), 4, ("bad.yaml",)),
    (("inspect", "nowhere"), 3, ("nowhere",)),
    (("apply", "there", "there", "-o", "out"), 4, ("there",)),
    (("bench", "there"), 2, ("--baseline",)),
    (("compress", "{model}", "-o", "there", *METHOD), 3, ("there", "--force")),
])
def test_one_line_the_exit_code_and_nothing_left(
    arguments: tuple[str, ...], code: int, says: tuple[str, ...], specs_5m: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, here: Here,
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("keep me")
    (tmp_path / "short.txt").write_text("Too short.")
    (tmp_path / "bad.yaml").write_text("a: &a [1]\nb: *a\n")
    before = contents(tmp_path)
    monkeypatch.chdir(tmp_path)
    refused(here(*(a.format(model=specs_5m) for a in arguments)), code, *says)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(("arguments", "code", "says"), [
    (("--text", "missing.txt"), 3, ("missing.txt",)),
    (("--calibration", "missing.txt"), 3, ("missing.txt",)),
    (("--recover", "lora", "--recover-text", "missing.txt"), 3, ("missing.txt",)),
    (("--provider", "cuda"), 3, ("provider cuda", "no such driver")),
    (("--method", "dipsvd:keep=2"), 2, ("keep",)),
    (("--max-perplexity-increase", "much"), 2, ("much",)),
])
def test_compress_says_what_is_wrong_before_the_long_work(
    arguments: tuple[str, ...], code: int, says: tuple[str, ...], specs_5m: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, here: Here,
) -> None:
    for verb in ("export", "plan"):
        monkeypatch.setattr(f"foldrank.verbs.compress_stages.{verb}",
                            lambda *_, **__: pytest.fail("the long work has begun"))
    fallback = "foldrank.runtime.providers.fallback"
    monkeypatch.setattr(f"{fallback}.resolve", lambda name, options: Provider(name, options or {}))
    monkeypatch.setattr(f"{fallback}.probed", lambda _: {"starts": False, "reason": "no such driver"})
    monkeypatch.chdir(tmp_path)
    refused(here("compress", specs_5m, "-o", "out", *METHOD, *arguments), code, *says)
    assert list(tmp_path.iterdir()) == []


def test_a_plan_to_be_trained_on_a_text_that_is_not_there_is_not_made(
    specs_5m: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from foldrank.errors import SourceError
    from foldrank.verbs.plan import plan

    monkeypatch.setattr("foldrank.plans.compose.make_plan", lambda *_, **__: pytest.fail("the long work has begun"))
    with pytest.raises(SourceError, match=r"missing\.txt"):
        plan(specs_5m, methods=[METHOD[1]], recover="lora", recover_text=tmp_path / "missing.txt")


def test_an_unknown_architecture_names_those_the_exporter_knows(specs_5m: Path, tmp_path: Path, here: Here) -> None:
    model = Path(shutil.copytree(specs_5m, tmp_path / "model"))
    config = json.loads((model / "config.json").read_text())
    for told, says in (({"architectures": ["ZebraForCausalLM"]}, ("ZebraForCausalLM", "LlamaForCausalLM")),
                       ({"architectures": ["BertForMaskedLM"], "model_type": "bert"}, ("encoder-only",))):
        (model / "config.json").write_text(json.dumps(config | told))
        refused(here("export", model, "-o", tmp_path / "out"), 3, *says)
        assert not (tmp_path / "out").exists()


def test_a_truncated_checkpoint_is_refused_by_export_and_plan(specs_5m: Path, tmp_path: Path, here: Here) -> None:
    model = Path(shutil.copytree(specs_5m, tmp_path / "model"))
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    refused(here("export", model, "-o", tmp_path / "out"), 3, "model.safetensors")
    refused(here("plan", model, "-o", tmp_path / "out", *METHOD), 3, "model.safetensors")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "manifest.json"])
def test_a_truncated_bundle_is_refused_and_left_as_it_was(copy: Path, plan: Path, name: str, here: Here) -> None:
    (copy / name).write_bytes((copy / name).read_bytes()[:-7])
    before = contents(copy)
    refused(here("apply", copy, plan, "-o", copy.parent / "out"), 4, name)
    assert contents(copy) == before
    assert not (copy.parent / "out").exists()


def test_a_truncated_bare_graph_is_refused(copy: Path, tmp_path: Path, here: Here) -> None:
    whole = (copy / "model.onnx").read_bytes()
    for size in (0, 1, len(whole) // 2, len(whole) - 1):
        (copy / "model.onnx").write_bytes(whole[:size])
        refused(here("inspect", copy / "model.onnx"), 4, "model.onnx")


def test_a_plan_of_another_model_is_refused(tiny_models: Path, plan: Path, tmp_path: Path, here: Here) -> None:
    other = tmp_path / "other"
    assert here("export", tiny_models / "llama" / "checkpoint", "-o", other).returncode == 0
    refused(here("apply", other, plan, "-o", tmp_path / "out"), 4, "specs-5m")
    assert not (tmp_path / "out").exists()


def test_a_plan_of_other_weights_of_the_same_shape_is_refused(
    specs_5m: Path, plan: Path, tmp_path: Path, here: Here
) -> None:
    import numpy as np
    from safetensors.numpy import load_file, save_file

    model = Path(shutil.copytree(specs_5m, tmp_path / "model"))
    weights = load_file(model / "model.safetensors")
    weights = {k: v + np.float16(0.01) if "down_proj" in k else v for k, v in weights.items()}
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    assert here("export", model, "-o", tmp_path / "other").returncode == 0
    refused(here("apply", tmp_path / "other", plan, "-o", tmp_path / "out"), 4, "block.", "plan")


def test_a_disk_that_fills_up_leaves_nothing(dense_5m: Path, plan: Path, tmp_path: Path) -> None:
    before = contents(dense_5m)
    found = foldrank("apply", dense_5m, plan, "-o", tmp_path / "out", preexec_fn=_one_mebibyte_files)
    refused(found, 3, "cannot be written")
    assert list(tmp_path.iterdir()) == []
    assert contents(dense_5m) == before


def _one_mebibyte_files() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=NIGHTLY)])
def test_an_interrupt_in_the_middle_leaves_nothing(specs_5m: Path, tmp_path: Path, stop: signal.Signals) -> None:
    run = subprocess.Popen(
        [sys.executable, "-m", "foldrank", "compress", str(specs_5m), "--method", "slm:keep=0.75", "-o",
         str(tmp_path / "out")], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )
    _wait_for(lambda: any(tmp_path.glob("out.unfinished/.dense.*.partial")), 150)
    time.sleep(0.3)
    run.send_signal(stop)
    _, stderr = run.communicate(timeout=60)
    # Where an interrupt passed through exec() of a text, CPython ends itself by SIGINT: a shell says 130 of both.
    assert run.returncode in (130, -signal.SIGINT), stderr
    assert "error: interrupted" in stderr
    assert "Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []


def _wait_for(fact: Callable[[], bool], limit_s: float) -> None:
    end = time.monotonic() + limit_s
    while not fact():
        assert time.monotonic() < end
        time.sleep(0.05)
