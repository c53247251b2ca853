"""The page of commands is the commands': as committed, and with every option of each."""

from pathlib import Path

import click

from foldrank.cli.main import VERBS, cli
from foldrank.cli.reference import page


def test_the_committed_page_is_the_commands_own(root: Path) -> None:
    assert (root / "docs" / "cli.md").read_text(encoding="utf-8") == page(), "python -m foldrank.cli.reference"


def test_every_option_of_every_command_is_on_it() -> None:
    sections = {part.partition("\n")[0]: part for part in page().split("\n## ")[1:]}
    assert list(sections) == list(VERBS)
    for verb in VERBS:
        command = cli.get_command(click.Context(cli), verb)
        assert command is not None
        assert all(f"`{name}`" in sections[verb] for option in command.params if isinstance(option, click.Option)
                   for name in option.opts)
