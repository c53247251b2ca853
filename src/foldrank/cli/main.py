"""Entry point: finds the verb, imports only that one, turns every error into one line and its exit code."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sys
import traceback

import click

from foldrank import __version__
from foldrank.cli import interrupts
from foldrank.disk.unfinished import notes
from foldrank.errors import FoldrankError
from foldrank.words import one_line

VERBS = ("doctor", "inspect", "export", "plan", "apply", "validate", "bench", "report", "compress", "run", "diff",
         "selftest", "sweep", "package", "serve", "push", "verify", "sign", "sbom")
INTERRUPTED = 130
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
"""A disk that takes no more, wherever that is met: standard output and scratch folders lie on disks too."""

_EXTRAS = {
    "torch": "torch", "transformers": "torch", "onnxruntime": "cpu", "onnxruntime_genai": "cpu", "matplotlib": "report",
    "jinja2": "report", "model_signing": "sign", "OpenSSL": "sign", "cryptography": "sign",
    "fastapi": "serve", "starlette": "serve", "uvicorn": "serve", "mlflow": "mlflow", "pandas": "mlflow",
    "huggingface_hub": "hub",
}
"""Which extra of the package brings a library that a base install lacks."""


class _Verbs(click.Group):
    """A group whose commands are imported when asked for: `apply` never waits for torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        return importlib.import_module(f"foldrank.cli.commands.{cmd_name}").command


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="foldrank")
def cli() -> None:
    """Smaller, faster, proven ONNX bundles from decoder language models."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 a gate failed, 2 usage, 3 source or provider, 4 refused, 70 our bug."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    interrupts.listen()
    keep_stdout()
    sys.exit(_run(sys.argv[1:] if arguments is None else arguments))


def keep_stdout() -> None:
    """Standard output is ours alone: what a library's C code prints there, as a solver may, goes to standard error."""
    if sys.stdout is not sys.__stdout__ or sys.stdout is None:
        return  # somebody else's already, or none
    try:
        sys.stdout.flush()
        own = os.dup(1)
        os.dup2(2, 1)
    except OSError:
        return  # one of them is closed
    sys.stdout = os.fdopen(own, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)


def _run(arguments: list[str]) -> int:
    verbose = any(a == "--verbose" or (a.startswith("-v") and set(a[1:]) == {"v"}) for a in arguments)
    try:
        code = cli.main(arguments, prog_name="foldrank", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.UsageError as error:
        return _fail(_usage_line(error), 2, verbose)
    except click.ClickException as error:
        return _fail(error.format_message(), 2, verbose)
    except FoldrankError as error:
        return _fail("; ".join([str(error), *notes(error)]), error.exit_code, verbose)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in _EXTRAS:
            return _fail(f"{missing}: is not installed; pip install 'foldrank[{_EXTRAS[missing]}]'", 3, verbose)
        return _our_bug(error, verbose)
    except (click.Abort, KeyboardInterrupt) as error:
        left = "; ".join(notes(error)) or "nothing half-written was left; run the same command again"
        return _fail(f"interrupted: {left}", INTERRUPTED, verbose)
    except BrokenPipeError:
        _drop_stdout()
        return 0
    except OSError as error:
        if error.errno not in _NO_ROOM:
            return _our_bug(error, verbose)
        where = error.filename or "standard output"
        _drop_stdout()
        return _fail(f"{where}: cannot be written: {error.strerror}; make room and run it again", 3, verbose)
    except Exception as error:  # noqa: BLE001 - the one place: whatever is left is our bug
        return _our_bug(error, verbose)


def _drop_stdout() -> None:
    """What waits to be written there could not be: the interpreter would fail on it once more at its end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # none, or one without a descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _our_bug(error: Exception, verbose: bool) -> int:
    said = "; ".join(["this is our bug: please report it with -v", *notes(error)])
    return _fail(f"foldrank: {type(error).__name__}: {error}; {said}", 70, verbose)


def _usage_line(error: click.UsageError) -> str:
    where = error.ctx.command_path if error.ctx else "foldrank"
    return f"{where}: {error.format_message()}; see {where} --help"


def _fail(message: str, code: int, verbose: bool) -> int:
    if verbose:
        traceback.print_exc()
    print(f"error: {one_line(message)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
