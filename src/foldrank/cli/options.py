"""Options that several verbs share, with the names of the contract."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

DTYPES = ("fp32", "fp16", "bf16")
BOS = ("auto", "always", "never")
RECOVERIES = ("factors", "sliced", "lora", "middle", "diagonal", "scales", "norms")
EXPORTERS = ("auto", "genai", "transformers", "optimum")


def _stack(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def _share(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
    """`5%` and `0.05` are the same."""
    if value is None:
        return None
    try:
        share = float(value.removesuffix("%")) / (100 if value.endswith("%") else 1)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a share (0.05) nor per cent (5%)") from None
    if not 0 <= share < float("inf"):
        raise click.BadParameter(f"{value!r} is negative or not a number")
    return share


def usage(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call a verb; a ValueError about its arguments is wrong use of the command line (exit 2)."""
    try:
        return function(*arguments, **options)
    except ValueError as error:
        raise click.UsageError(str(error), click.get_current_context()) from error


def _pairs(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> Mapping[str, str]:
    """KEY=VALUE, repeatable."""
    pairs = dict(v.split("=", 1) for v in values if "=" in v)
    if bad := [v for v in values if "=" not in v]:
        raise click.BadParameter(f"{bad[0]!r} is not KEY=VALUE")
    return pairs


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
          "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def _bytes(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | None:
    """`100MB`, `95.5MiB` or a number."""
    if value is None:
        return None
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]I?|)B?", value.strip().upper())
    if found is None:
        raise click.BadParameter(f"{value!r} is not a number of bytes, such as 100MB or 95.5MiB")
    return int(float(found[1]) * _UNITS[found[2]])


class _HomePath(click.Path):
    """A path whose `~` is the home folder, also where no shell saw it: in quotes, after `=`, from a program."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        given: Any = super().convert(value, param, ctx)
        return Path(given).expanduser()


PATH = _HomePath(path_type=Path)

reporting: Callable[[F], F] = _stack(
    click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout."),
    click.option("-q", "--quiet", is_flag=True, help="No progress."),
    click.option("-v", "--verbose", is_flag=True, help="Tracebacks."),
)
output: Callable[[F], F] = _stack(
    click.option("-o", "--output", "output_", type=PATH, required=True, help="Folder to write."),
    click.option("--force", is_flag=True, help="Replace the output if it exists; without it nothing is overwritten."),
)
seed: Callable[[F], F] = click.option("--seed", type=int, default=0, show_default=True, help="For everything random.")
source: Callable[[F], F] = _stack(
    click.option("--offline", is_flag=True, envvar="HF_HUB_OFFLINE", help="Never use the network."),
    click.option("--trust-remote-code", is_flag=True, help="Run code that a checkpoint brings."),
)
exporting: Callable[[F], F] = _stack(
    click.option("--exporter", type=click.Choice(EXPORTERS), default=None,
                 help="Default auto: genai, or transformers where that does not write the model as it is."),
    click.option("--dtype", type=click.Choice(DTYPES), default=None, help="Of the graph; default fp32."),
)
provider: Callable[[F], F] = _stack(
    click.option("--provider", default=None,
                 help="cpu, cuda, tensorrt, a plugin (openvino, webgpu, tensorrt-rtx), or its long name; default cpu."),
    click.option("--provider-option", "provider_options", multiple=True, callback=_pairs, metavar="KEY=VALUE"),
)
fallback: Callable[[F], F] = click.option(
    "--allow-fallback", is_flag=True, help="Run on the CPU where the provider asked for does not start; reports say so."
)
calibration: Callable[[F], F] = _stack(
    click.option("--method", "methods", multiple=True, metavar="NAME[:KEY=VALUE,...]",
                 help="Repeatable, applied in order, e.g. slm:keep=0.75."),
    click.option("--calibration", type=PATH, help="Text, JSON lines or CSV; default: the bundled text."),
    click.option("--calibration-tokens", type=click.IntRange(min=1)),
    click.option("--calibration-from", type=PATH, metavar="CORPUS", help="Instead, documents of this text that are"),
    click.option("--like", type=PATH, metavar="TEXT", help="like the documents of this one."),
    click.option("--recipe", type=PATH, help="YAML with these options; options given beside it win."),
    click.option("--set", "settings", multiple=True, metavar="KEY=VALUE",
                 help="Repeatable: another value in the recipe, e.g. seed=1, methods.dipsvd.keep=0.8."),
    click.option("--save-recipe", type=PATH, help="Write the options of this run as YAML."),
)
recovering: Callable[[F], F] = _stack(
    click.option("--recover", type=click.Choice(RECOVERIES), help="Train the plan by distillation."),
    click.option("--recover-text", type=PATH, help="Text, JSON lines or CSV to train on; default: the calibration's."),
    click.option("--recover-tokens", type=click.IntRange(min=64), help="Tokens drawn from it; default 262144."),
    click.option("--recover-steps", type=click.IntRange(min=1), help="At most so many; default 300."),
    click.option("--recover-minutes", type=click.FloatRange(min=0, min_open=True),
                 help="As many steps as fit; without --recover the kind that suits the plan."),
    click.option("--recover-target", type=click.Choice(("logits", "features", "both")),
                 help="What of the dense model is aimed at; default logits."),
    click.option("--recover-select", type=click.Choice(("random", "rs2", "paser")),
                 help="Which windows each batch has; default random."),
    click.option("--recover-lisa", type=click.IntRange(min=1), metavar="BLOCKS",
                 help="So many blocks, drawn anew every 10 steps, train at a time; default all."),
)
quality_gates: Callable[[F], F] = _stack(
    click.option("--text", type=PATH, help="Held-out text, JSON lines or CSV; default: the bundled text."),
    click.option("--max-perplexity-increase", callback=_share, metavar="SHARE", help="Gate, e.g. 5% or 0.05."),
    click.option("--min-top1-agreement", type=click.FloatRange(0, 1), help="Gate, e.g. 0.9."),
)
tasks: Callable[[F], F] = click.option(
    "--tasks", is_flag=True,
    help="Small tasks of the held-out text too, through lm-eval, and chat answers, beside the dense bundle.",
)
bos: Callable[[F], F] = click.option(
    "--bos", type=click.Choice(BOS), default=None,
    help="Beginning-of-text token at the front of what is read; default auto: where the tokenizer puts one.",
)
speed_gate: Callable[[F], F] = click.option(
    "--min-speedup", type=click.FloatRange(min=0, min_open=True), help="Gate on decode, e.g. 1.2."
)
release: Callable[[F], F] = _stack(
    click.option("--against-release", metavar="DIR|mlflow:NAME",
                 help="Gates: no worse than this bundle, which was released, by the same report of its own; "
                      "mlflow:NAME, :NAME/VERSION, :NAME@ALIAS are of an MLflow registry."),
    click.option("--release-slack", callback=_share, default="2%", show_default=True, metavar="SHARE",
                 help="How much worse is no worse."),
)
release_quality: Callable[[F], F] = _stack(
    click.option("--max-kl", type=click.FloatRange(min=0), metavar="NATS", help="Gate on mean KL from dense."),
    click.option("--max-bytes", callback=_bytes, metavar="BYTES", help="Gate on graph and weights, e.g. 100MB."),
    click.option("--max-task-drop", callback=_share, metavar="SHARE",
                 help="Gate on the accuracy that any task lost; with --tasks."),
)
release_speed: Callable[[F], F] = _stack(
    click.option("--max-memory", callback=_bytes, metavar="BYTES", help="Gate on peak resident memory, e.g. 2GiB."),
    click.option("--max-p95-ttft-ms", type=click.FloatRange(min=0), metavar="MS",
                 help="Gate on the 95th percentile of times to the first token, at batch 1."),
    click.option("--max-p95-tpot-ms", type=click.FloatRange(min=0), metavar="MS",
                 help="Gate on the 95th percentile of times per token, at batch 1."),
)
