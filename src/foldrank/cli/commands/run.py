"""foldrank run."""

from __future__ import annotations

from pathlib import Path

import click

from foldrank.cli import options, output, results
from foldrank.errors import SourceError


@click.command("run")
@click.argument("bundle", type=options.PATH)
@click.option("--prompt", "prompts", multiple=True, help="Repeatable: several are decoded in one batch.")
@click.option("--prompts", "file", type=options.PATH, help="A text file with one prompt a line, decoded in one batch.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True, help="0 is greedy.")
@options.bos
@options.provider
@options.fallback
@options.seed
@options.reporting
def command(
    bundle: Path, prompts: tuple[str, ...], file: Path | None, max_new_tokens: int, temperature: float,
    bos: str | None, provider: str | None, provider_options: dict[str, str], allow_fallback: bool, seed: int,
    as_json: bool, quiet: bool, verbose: bool,
) -> None:
    """Generate text with a bundle, from one prompt or from several in one batch."""
    from foldrank.verbs.run import run

    found = options.usage(
        run, bundle, _prompts(prompts, file), max_new_tokens=max_new_tokens, temperature=temperature,
        bos=bos or "auto", provider=provider or "cpu", provider_options=provider_options,
        allow_fallback=allow_fallback, seed=seed,
    )
    if as_json:
        output.emit_json(found)
    elif "rows" in found:
        results.show_texts(found)
    else:
        output.say(found["text"])


def _prompts(typed: tuple[str, ...], file: Path | None) -> str | list[str]:
    """One typed prompt as it is; several, and those of a file, as a list. Raises SourceError (the file)."""
    if not typed and file is None:
        raise click.UsageError("give --prompt or --prompts", click.get_current_context())
    if file is None:
        return typed[0] if len(typed) == 1 else list(typed)
    try:
        with file.open(encoding="utf-8-sig") as lines:
            read = [line.rstrip("\n") for line in lines]
    except (OSError, UnicodeDecodeError) as error:
        reason = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else f"cannot be read: {error.strerror}"
        raise SourceError(file, reason, "give a text file with one prompt a line") from None
    if not read:
        raise SourceError(file, "holds no prompt", "write one prompt a line")
    return [*typed, *read]
