"""The page of all commands, from click's own description of them: `python -m foldrank.cli.reference > docs/cli.md`."""

from __future__ import annotations

import sys
from typing import Any

import click

from foldrank.cli.main import VERBS, cli


def page() -> str:
    """Markdown: every command with its text, arguments and options."""
    context = click.Context(cli, info_name="foldrank")
    parts = ["# Command line", "Made from the commands themselves (`python -m foldrank.cli.reference`).",
             "[Exit codes](architecture.md#exit-codes) are the same for all of them."]
    for verb in VERBS:
        command = cli.get_command(context, verb)
        assert command is not None
        parts.append(_section(verb, command))
    return "\n\n".join(parts) + "\n"


def _section(verb: str, command: click.Command) -> str:
    arguments = [parameter for parameter in command.params if isinstance(parameter, click.Argument)]
    usage = " ".join(["foldrank", verb, *(argument.make_metavar(click.Context(command)) for argument in arguments),
                      "[OPTIONS]"])
    rows = [_row(option) for option in command.params if isinstance(option, click.Option) and not option.hidden]
    text = "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n"))
    return "\n".join([f"## {verb}", "", f"    {usage}", "", text, "", "| option | default | |", "|---|---|---|", *rows])


def _row(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    value = "" if option.is_flag else f" {_cell(option.metavar or _kind(option.type))}"
    return f"| {names}{value} | {_cell(_default(option))} | {_cell(option.help or '')} |"


def _kind(kind: click.ParamType) -> str:
    return " or ".join(kind.choices) if isinstance(kind, click.Choice) else kind.name.upper()


def _default(option: click.Option) -> str:
    value: Any = option.default
    if option.required:
        return "required"
    shown = option.show_default and isinstance(value, str | int | float) and not isinstance(value, bool)
    return f"{value}" if shown else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    sys.stdout.write(page())
