"""Results for CI: JUnit files and annotations tell every case, errors too; what the examples ask can be asked."""

import json
import re
import shlex
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import click
import pytest
import yaml
from click.testing import CliRunner
from sample_reports import benchmark, validation

from foldrank.cli import ci
from foldrank.cli.main import cli
from foldrank.errors import SourceError
from foldrank.reports.bench import FORM as BENCH
from foldrank.reports.cases import Case, of_bench, of_selftest, of_validation
from foldrank.reports.validate import FORM as VALIDATE

CASES = [Case("gate", "good", True, "1, limit 2"), Case("gate", "bad <&>", False, "3, limit 2\x00\n50%"),
         Case("graph", "idle", None, "not run")]
SELFTEST: dict[str, Any] = {
    "verdict": "fail", "tokenizer": None, "provider": "cpu", "dtype": "fp32", "reference": "x",
    "checks": [{"name": "prefill", "positions": 1, "measure": "max_relative_error", "value": 1.0, "limit": 1e-5,
                "argmax_agreement": 1.0, "passed": False}]}


def test_a_junit_file_counts_what_it_holds() -> None:
    root = Xml.fromstring(ci.junit_xml("validate", CASES, 1.5, "it broke"))
    [suite] = root
    assert {key: suite.attrib[key] for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "4", "failures": "1", "errors": "1", "skipped": "1"}
    assert [[child.tag for child in case] for case in suite] == [["system-out"], ["failure"], ["skipped"], ["error"]]
    assert suite[1].attrib["name"] == "bad <&>"
    assert suite[1][0].text == "3, limit 2?\n50%"


def test_annotations_are_one_line_each_and_tell_what_did_not_pass() -> None:
    bad, idle = ci.annotations_of("validate", CASES, None)
    assert bad == "::error title=foldrank validate%3A bad <&>::3, limit 2\x00%0A50%25"
    assert idle.startswith("::warning title=foldrank validate%3A idle::")
    assert ci.annotations_of("bench", CASES[:1], None) == ["::notice title=foldrank bench::1 checks passed"]
    assert ci.annotations_of("bench", [], "gone: away")[0] == "::error title=foldrank bench::gone: away"


def test_every_gate_and_check_of_a_report_is_a_case() -> None:
    report = VALIDATE.parse(validation())
    assert [case.name for case in of_validation(report)] == [
        "graph_proof", "max_perplexity_increase", "reference", "cached_decode"]
    assert {case.passed for case in of_bench(BENCH.parse(benchmark()))} == {True, None}  # unsteady: named, not failed
    assert [(case.name, case.passed) for case in of_selftest(SELFTEST)] == [
        ("prefill max_relative_error", False), ("tokenizer", None)]


def test_a_command_writes_them_and_keeps_its_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foldrank.verbs.selftest.selftest", lambda *_, **__: SELFTEST)
    junit = tmp_path / "deep" / "out.xml"
    done = CliRunner().invoke(cli, ["selftest", str(tmp_path), "--junit", str(junit), "--annotations", "github",
                                    "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["verdict"] == "fail"
    assert "::error title=foldrank selftest%3A prefill" in done.stderr
    assert Xml.parse(junit).getroot()[0].attrib["failures"] == "1"


def test_what_ends_a_command_is_an_error_in_the_file(tmp_path: Path) -> None:
    junit = tmp_path / "out.xml"
    done = CliRunner().invoke(cli, ["selftest", str(tmp_path / "none"), "--junit", str(junit)])
    assert isinstance(done.exception, SourceError)
    [case] = Xml.parse(junit).getroot()[0]
    assert "no such folder" in case[0].attrib["message"]


@pytest.mark.parametrize(("given", "wanted"), [("100MB", 10**8), ("1.5GiB", 3 * 2**29), ("7", 7), ("2k", 2000)])
def test_bytes_have_units(given: str, wanted: int) -> None:
    from foldrank.cli import options

    @click.command()
    @options.release_speed
    def command(max_memory: int, **_: Any) -> None:
        click.echo(max_memory)

    assert CliRunner().invoke(command, ["--max-memory", given]).output.strip() == str(wanted)
    assert CliRunner().invoke(command, ["--max-memory", f"{given}x"]).exit_code == 2


def commands(path: Path) -> list[list[str]]:
    """The foldrank commands of a workflow."""
    data = yaml.safe_load(path.read_text())
    job = next(job for name, job in data.get("jobs", data).items() if name == "compress-and-judge")
    texts = job["script"] if "script" in job else [step["run"] for step in job["steps"] if "run" in step]
    return [shlex.split(found)[1:] for text in texts if (found := re.sub(r"^.*?(?=\bfoldrank (?!\[))", "", text))
            and found.startswith("foldrank ")]


@pytest.mark.parametrize("name", ["github.yml", "gitlab.yml"])
def test_the_examples_commands_can_be_parsed(name: str, root: Path) -> None:
    found = commands(root / "examples" / "ci" / name)
    assert [one[0] for one in found] == ["compress", "selftest", "validate", "bench", "validate", "package"]
    for verb, *rest in found:
        command = cli.get_command(click.Context(cli), verb)
        assert command is not None
        command.make_context(verb, rest)  # raises where an option or a value is not the command's


def test_both_examples_ask_the_same(root: Path) -> None:
    github, gitlab = (commands(root / "examples" / "ci" / name) for name in ("github.yml", "gitlab.yml"))
    assert [[word for word in one if word not in ("--annotations", "github")] for one in github] == gitlab
