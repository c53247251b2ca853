"""The model builder as a child process: what it knows, why it failed, and that it never outlives us."""

import os
import signal
import time
from pathlib import Path

import pytest

from foldrank.errors import ExportError, NotWritable
from foldrank.export import builder
from foldrank.export.builder import build, check_architecture, known_architectures
from foldrank.export.child import ExporterFailed


def stand_in(monkeypatch: pytest.MonkeyPatch, folder: Path, body: str) -> Path:
    """Put a package of that name before the real builder on the child's path."""
    (folder / "stand_in.py").write_text(body)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setattr(builder, "_MODULE", "stand_in")
    output = folder / "output"
    output.mkdir()
    return output


def run(output: Path) -> None:
    build(output.parent, output, precision="fp32", execution_provider="cpu", blocks=2)


def test_the_installed_builder_tells_what_it_knows() -> None:
    known = known_architectures()
    assert {"LlamaForCausalLM", "Qwen2ForCausalLM", "MistralForCausalLM"} <= set(known)
    assert all(name.isidentifier() for name in known)


def test_names_are_read_off_the_comparisons_of_any_builder(tmp_path: Path) -> None:
    source = tmp_path / "builder.py"
    source.write_text('if c.architectures[0] == "A" or c.architectures[0] in ("B", "C"): x = "no"\n'
                      'elif c.name == "not one": pass\n')
    assert known_architectures(source) == ("A", "B", "C")


def test_an_unknown_architecture_is_refused_with_those_known() -> None:
    with pytest.raises(ExportError, match=r"BertModel.*LlamaForCausalLM"):
        check_architecture("BertModel")
    check_architecture("LlamaForCausalLM")


def test_the_reason_is_the_last_exception_and_the_log_comes_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = stand_in(monkeypatch, tmp_path, "print('Reading layer 0', flush=True)\nraise ValueError('no such head')")
    with pytest.raises(ExporterFailed, match=r"failed: ValueError: no such head; -v") as failed:
        run(output)
    assert "Reading layer 0" in failed.value.log
    assert failed.value.exit_code == 3


def test_a_child_that_is_killed_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = stand_in(monkeypatch, tmp_path, "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(ExporterFailed, match=r"SIGKILL \(out of memory"):
        run(output)


def test_a_full_disk_is_named_with_its_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = stand_in(monkeypatch, tmp_path, "raise OSError(28, 'No space left on device')")
    with pytest.raises(ExportError, match="No space left on device; make room") as failed:
        run(output)
    assert not isinstance(failed.value, NotWritable)  # or `auto` would try the next exporter on the same disk


def test_an_interrupt_ends_the_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = tmp_path / "pid"
    output = stand_in(monkeypatch, tmp_path, f"""
import os, signal, time
open({str(told)!r}, "w").write(str(os.getpid()))
print("Reading layer 0", flush=True)
time.sleep(60)
""")

    class Interrupting:
        def start(self, stage: str, total: int | None, done: int = 0) -> None: ...
        def finish(self, stage: str) -> None: ...

        def advance(self, stage: str, steps: int = 1) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, output, precision="fp32", execution_provider="cpu", blocks=2, progress=Interrupting())
    with pytest.raises(ProcessLookupError):
        os.kill(int(told.read_text()), signal.SIGCONT)


def test_the_child_is_offline_and_works_in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = stand_in(monkeypatch, tmp_path, """
import os, sys
print(os.environ["HF_HUB_OFFLINE"], os.environ["ORT_DISABLE_TELEMETRY"], os.getcwd(), sys.argv[1:])
sys.exit("seen")
""")
    started = time.monotonic()
    with pytest.raises(ExporterFailed) as failed:
        run(output)
    assert failed.value.log.startswith(f"1 1 {output / '.builder'} ['-i', '{tmp_path}'")
    assert time.monotonic() - started < 30
