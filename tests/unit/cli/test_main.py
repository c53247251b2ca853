"""The frame of the command line: exit codes, one error line, shared options, progress, and what is imported."""

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from foldrank.cli import main, options, output, plans
from foldrank.cli.commands import compress
from foldrank.errors import BundleError, InvariantBroken, SourceError, ValidationFailed
from foldrank.reports.form import Gate, Judged, Verdict


@pytest.mark.parametrize(("error", "code"), [
    (SourceError("a", "b", "c"), 3), (BundleError("a", "b", "c"), 4), (ValidationFailed("a", "b", "c"), 1),
    (InvariantBroken("a", "b", "c"), 70), (KeyboardInterrupt(), 130), (RuntimeError("odd"), 70),
    (click.UsageError("wrong"), 2), (ModuleNotFoundError("no torch", name="torch"), 3),
    (ModuleNotFoundError("no such", name="foldrank.nothing"), 70),
])
def test_every_error_has_its_exit_code_and_one_line(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(main.cli, "main", fail)
    assert main._run(["verb"]) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")


def test_a_traceback_only_with_v(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: object, **__: object) -> None:
        raise SourceError("a", "b")

    monkeypatch.setattr(main.cli, "main", fail)
    main._run(["verb", "-v"])
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("verb", main.VERBS)
def test_every_verb_has_help_and_reports_json(verb: str) -> None:
    command = main.cli.get_command(click.Context(main.cli), verb)
    assert command is not None
    names = {name for parameter in command.params for name in parameter.opts}
    assert {"--json", "-q", "-v"} <= names
    assert command.help


@pytest.mark.parametrize(("typed", "share"), [("5%", 0.05), ("0.05", 0.05), ("0", 0.0), (None, None)])
def test_a_share_is_typed_either_way(typed: str | None, share: float | None) -> None:
    found = options._share(None, None, typed)  # type: ignore[arg-type]
    assert found == (None if share is None else pytest.approx(share))


@pytest.mark.parametrize("typed", ["five", "-1%", "nan", "inf", "%"])
def test_what_is_no_share_is_refused(typed: str) -> None:
    with pytest.raises(click.BadParameter):
        options._share(None, None, typed)  # type: ignore[arg-type]


def test_options_on_the_command_line_win_over_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("methods: ['slm:keep=0.5']\nseed: 3\ncalibration_tokens: 9\n")

    @click.command()
    @click.option("--seed", type=int, default=0)
    def probe(seed: int) -> None:
        chosen = plans.choose(tmp_path / "r.yaml", None, methods=("dipsvd:keep=0.5",), calibration_tokens=None,
                              seed=plans.given("seed", seed))
        click.echo(f"{chosen.methods} {chosen.seed} {chosen.calibration_tokens}")

    assert CliRunner().invoke(probe, []).output == "('dipsvd:keep=0.5',) 3 9\n"
    assert CliRunner().invoke(probe, ["--seed", "0"]).output == "('dipsvd:keep=0.5',) 0 9\n"


def test_a_failed_gate_is_a_failed_report() -> None:
    def failed(verdict: Verdict, *passed: bool | None) -> bool:
        gates = [Gate(name="any", limit=1.0, value=2.0, passed=one) for one in passed]
        return Judged(gates=gates, verdict=verdict).failed

    assert not failed("pass", True, None)
    assert failed("fail")
    assert failed("pass", True, False)


def test_values_are_shown_to_be_read() -> None:
    assert [output.cell(v) for v in (None, True, 1234567, 0.123456, "x")] == ["-", "yes", "1,234,567", "0.1235", "x"]
    assert output.mebibytes(3 << 20) == "3.0 MiB"
    assert output.mebibytes(1536) == "1.5 KiB"


def test_help_imports_neither_torch_nor_onnxruntime() -> None:
    program = ("import sys; from foldrank.cli.main import _run; _run(['--help']); "
               "assert not {'torch', 'onnxruntime', 'onnx', 'transformers'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_a_tilde_in_a_path_option_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from foldrank.cli.options import PATH

    monkeypatch.setenv("HOME", str(tmp_path))
    assert PATH.convert("~/text.txt", None, None) == tmp_path / "text.txt"
    assert PATH.convert("a~/text.txt", None, None) == Path("a~/text.txt")


def test_choices_are_those_that_the_planner_knows() -> None:
    """The terminal lists them itself: to ask the planner would import torch for `--help`."""
    from foldrank.plans.training.adapters import RATES
    from foldrank.plans.training.gradients import TARGETS
    from foldrank.plans.training.sampling import SELECTS
    from foldrank.verbs.goal import GOALS

    params = compress.command.params
    found = {param.name: tuple(param.type.choices) for param in params if isinstance(param.type, click.Choice)}
    assert set(found["recover"]) == set(RATES)
    assert (found["recover_target"], found["recover_select"], found["goal"]) == (TARGETS, SELECTS, GOALS)
