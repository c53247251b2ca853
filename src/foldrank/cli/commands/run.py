"""foldrank run."""

from __future__ import annotations

from pathlib import Path

import click

from foldrank.cli import options, output


@click.command("run")
@click.argument("bundle", type=options.PATH)
@click.option("--prompt", required=True)
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True, help="0 is greedy.")
@options.provider
@options.fallback
@options.seed
@options.reporting
def command(
    bundle: Path, prompt: str, max_new_tokens: int, temperature: float, provider: str | None,
    provider_options: dict[str, str], allow_fallback: bool, seed: int, as_json: bool, quiet: bool, verbose: bool,
) -> None:
    """Generate text with a bundle."""
    from foldrank.verbs.run import run

    found = options.usage(
        run, bundle, prompt, max_new_tokens=max_new_tokens, temperature=temperature, provider=provider or "cpu",
        provider_options=provider_options, allow_fallback=allow_fallback, seed=seed,
    )
    output.emit_json(found) if as_json else output.say(found["text"])
