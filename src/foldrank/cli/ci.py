"""Results for CI systems: a JUnit XML file, and annotations in a log that GitHub reads.

By the schema that Jenkins, GitLab and GitHub's actions read: testsuites, testsuite, testcase, failure, error, skipped.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from xml.etree import ElementTree as Xml

import click

from foldrank.cli import options as shared
from foldrank.disk.staging import check_file_output, write_output
from foldrank.errors import FoldrankError

if TYPE_CHECKING:
    from foldrank.reports.cases import Case

F = TypeVar("F", bound=Callable[..., Any])
_UNPRINTABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold."""


def options(function: F) -> F:
    """--junit FILE and --annotations github, for a command that judges."""
    for option in (
        click.option("--annotations", type=click.Choice(("github",)),
                     help="Say what failed as GitHub's runner reads it, on stderr."),
        click.option("--junit", type=shared.PATH, metavar="FILE",
                     help="Write every check and gate as JUnit XML; an older file is replaced."),
    ):
        function = option(function)
    return function


@dataclass
class Results:
    """What is to be told, filled by the command."""

    cases: Sequence[Case] = field(default_factory=list)


@contextmanager
def told(suite: str, junit: Path | None, annotations: str | None) -> Iterator[Results]:
    """Write what the command found, or the error that ended it, which is raised on. Raises SourceError (the file)."""
    if junit is not None:
        check_file_output(junit, force=True)
    results, began = Results(), time.monotonic()
    try:
        yield results
    except (FoldrankError, click.ClickException) as error:
        said = error.format_message() if isinstance(error, click.ClickException) else str(error)
        _tell(suite, results.cases, time.monotonic() - began, junit, annotations, said)
        raise
    _tell(suite, results.cases, time.monotonic() - began, junit, annotations, None)


def junit_xml(suite: str, cases: Sequence[Case], seconds: float, error: str | None) -> bytes:
    """The file: one suite, a case for each question, an error in the place of what could not be asked."""
    failed, skipped = (sum(case.passed is state for case in cases) for state in (False, None))
    counts = {"tests": str(len(cases) + (error is not None)), "failures": str(failed),
              "errors": str(int(error is not None)), "skipped": str(skipped), "time": f"{seconds:.3f}"}
    root = Xml.Element("testsuites", {"name": "foldrank", **counts})
    under = Xml.SubElement(root, "testsuite", {"name": suite, **counts})
    for case in cases:
        entry = Xml.SubElement(under, "testcase", {"classname": f"{suite}.{case.group}", "name": _held(case.name),
                                                   "time": "0"})
        if case.passed is False:
            Xml.SubElement(entry, "failure", {"message": _held(case.says), "type": case.group}).text = _held(case.says)
        elif case.passed is None:
            Xml.SubElement(entry, "skipped", {"message": _held(case.says)})
        else:
            Xml.SubElement(entry, "system-out").text = _held(case.says)
    if error is not None:
        entry = Xml.SubElement(under, "testcase", {"classname": suite, "name": "run", "time": f"{seconds:.3f}"})
        Xml.SubElement(entry, "error", {"message": _held(error), "type": "error"}).text = _held(error)
    Xml.indent(root)
    return Xml.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def annotations_of(suite: str, cases: Sequence[Case], error: str | None) -> list[str]:
    """GitHub's workflow commands: an error for what failed, a warning for what was not run, a notice for the rest."""
    lines = [_command("error" if case.passed is False else "warning", f"foldrank {suite}: {case.name}", case.says)
             for case in cases if not case.passed]
    if error is not None:
        lines.append(_command("error", f"foldrank {suite}", error))
    if not lines:
        lines.append(_command("notice", f"foldrank {suite}", f"{len(cases)} checks passed"))
    return lines


def _tell(
    suite: str, cases: Sequence[Case], seconds: float, junit: Path | None, annotations: str | None, error: str | None
) -> None:
    if junit is not None:
        write_output(junit, junit_xml(suite, cases, seconds, error), force=True)
    if annotations == "github":
        for line in annotations_of(suite, cases, error):
            print(line, file=sys.stderr, flush=True)


def _command(kind: str, title: str, message: str) -> str:
    """Characters that end a command or a property are written as GitHub's toolkit writes them."""
    for char, code in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A")):
        title, message = title.replace(char, code), message.replace(char, code)
    return f"::{kind} title={title.replace(':', '%3A').replace(',', '%2C')}::{message}"


def _held(text: str) -> str:
    return _UNPRINTABLE.sub("?", text)
