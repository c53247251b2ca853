"""foldrank serve."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from foldrank.cli import options, output
from foldrank.words import printable


@click.command("serve")
@click.argument("bundle", type=options.PATH)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 is every network.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: one that is free.")
@click.option("--name", help="The model's name for clients; default: the folder's.")
@click.option("--parallel", type=click.IntRange(1, 64), default=1, show_default=True,
              help="Texts written at once; they share the weights, each has its cache.")
@click.option("--queue", type=click.IntRange(0, 4096), default=16, show_default=True,
              help="Texts that may wait beside them; more are refused with status 429.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=1024, show_default=True,
              help="The most that a request gets.")
@click.option("--max-body-bytes", type=click.IntRange(min=1), default=1 << 20, show_default=True)
@click.option("--chat-template", type=options.PATH, metavar="FILE", help="Jinja, in the place of the tokenizer's own.")
@click.option("--grace", type=click.FloatRange(min=0), default=30.0, show_default=True, metavar="SECONDS",
              help="For texts under way when the server is told to end.")
@click.option("--selftest/--no-selftest", default=True, help="Whether the bundle's self-test must pass first.")
@options.bos
@options.provider
@options.fallback
@options.reporting
def command(
    bundle: Path, host: str, port: int, name: str | None, parallel: int, queue: int, max_new_tokens: int,
    max_body_bytes: int, chat_template: Path | None, grace: float, selftest: bool, bos: str | None,
    provider: str | None, provider_options: dict[str, str], allow_fallback: bool, as_json: bool, quiet: bool,
    verbose: bool,
) -> None:
    """Serve a bundle over HTTP as OpenAI's API does: chat and text completions, streamed or whole.

    Also /v1/models, /health and /metrics (Prometheus). Ends, with what was begun, on Ctrl-C or SIGTERM. Clients need
    the API key that the variable FOLDRANK_API_KEY holds, where it is set.
    """
    from foldrank.verbs.serve import KEY, serve

    def ready(found: dict[str, Any]) -> None:
        if not found["local"] and not found["api_key"]:
            click.echo(f"warning: whoever reaches {found['url']} may use it; set {KEY}, or leave --host out", err=True)
        if as_json:
            output.emit_json(found)
        elif not quiet:
            proved = "self-test passed" if found["selftest"] else "no self-test"
            output.say(f"{found['model']} on {found['provider']}, {proved}: {printable(found['url'])}")
        sys.stdout.flush()  # whoever started us waits for this line

    options.usage(
        serve, bundle, host=host, port=port, name=name, provider=provider or "cpu", provider_options=provider_options,
        allow_fallback=allow_fallback, bos=bos or "auto", chat_template=chat_template, texts=parallel, waiting=queue,
        max_new_tokens=max_new_tokens, max_body_bytes=max_body_bytes, patience_s=grace, check=selftest, ready=ready,
    )
