"""What the pages say of the command line is so: every command is read by click's own parser, and none is run."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent

import click
import pytest

from foldrank.cli.main import VERBS, cli
from foldrank.plans.compose import parse_all

ROOT = Path(__file__).resolve().parents[3]
PAGES = [page.relative_to(ROOT).as_posix() for page in (
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY")), *sorted((ROOT / "docs").glob("*.md")))
    if page.name != "cli.md"]  # made of the commands themselves
BETWEEN = {"&&", "||", "|", ";"}


def commands(text: str) -> Iterator[list[str]]:
    """Words behind `foldrank` of every command in the page's blocks of code."""
    fenced = re.sub(r"```(?:sh|bash|console)\n(.*?)```", lambda found: indent(found[1], "    "), text, flags=re.DOTALL)
    for line in fenced.replace("\\\n", " ").splitlines():
        if line.startswith("    ") and re.search(r"\bfoldrank ", line):
            words = shlex.split(line, comments=True)
            for other, part in itertools.groupby(words, BETWEEN.__contains__):
                said = [] if other else list(itertools.dropwhile(lambda word: "=" in word, part))
                if said[:1] == ["foldrank"]:
                    yield said[1:]


def command_of(verb: str) -> tuple[click.Command, click.Context]:
    context = click.Context(cli, info_name="foldrank")
    command = cli.get_command(context, verb)
    assert command is not None, f"there is no command {verb}"
    return command, context


def options(verb: str) -> set[str]:
    return {name for parameter in command_of(verb)[0].params for name in (*parameter.opts, *parameter.secondary_opts)}


def judge(words: list[str]) -> None:
    """Raises where click, or a method, would refuse them."""
    command, context = command_of(words[0])
    given = command.make_context(words[0], words[1:], parent=context).params
    if methods := given.get("methods"):
        parse_all(methods)


def unknown(text: str) -> set[str]:
    """Of the commands and options that the page's prose names, those that are not there."""
    found = {option for option in re.findall(r"`(--[a-z0-9-]+)", text) if not any(option in options(v) for v in VERBS)}
    for verbs, *words in map(str.split, re.findall(r"`foldrank ([^`]+)`", text)):
        known = [verb for verb in verbs.split("|") if verb in VERBS]
        found |= {*verbs.split("|")} - {*VERBS}
        found |= {word for word in words for verb in known if word.startswith("-") and word not in options(verb)}
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_is_one_that_the_command_line_takes(page: str) -> None:
    for words in commands((ROOT / page).read_text(encoding="utf-8")):
        judge(words)


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_that_prose_names_are_there(page: str) -> None:
    assert unknown((ROOT / page).read_text(encoding="utf-8")) == set()


def test_the_pages_show_every_command() -> None:
    shown = {words[0] for page in PAGES for words in commands((ROOT / page).read_text(encoding="utf-8"))}
    assert shown >= set(VERBS)


@pytest.mark.parametrize("wrong", [
    "    foldrank compres MODEL -o x", "    foldrank compress MODEL", "    foldrank compress -o x",
    "    foldrank run small --promt One     # why", "    foldrank compress MODEL -o x --goal tiny",
    "    foldrank compress MODEL -o x --minutes many", "    foldrank compress MODEL -o x --method slm:keeps=0.8",
    "    foldrank validate small --reference dense --max-bytes 2XB", "    make x && foldrank diff one",
    "    foldrank plan MODEL \\\n        --method nosuch -o plan", "```sh\nA=1 foldrank diff one\n```",
])
def test_a_wrong_command_is_noticed(wrong: str) -> None:
    [words] = commands(f"Text.\n\n{wrong}\n")
    with pytest.raises((click.ClickException, AssertionError, ValueError)):
        judge(words)


def test_a_wrong_name_in_prose_is_noticed() -> None:
    text = "`foldrank inspect|compres x`, `foldrank run --promt One`, `foldrank sweep --grid`, `--no-such 3`, `--goal`"
    assert unknown(text) == {"compres", "--promt", "--no-such"}
