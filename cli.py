"""The command line: parse, call one verb, turn its outcome into an exit code.

Each verb is a file of commands/; this one only lists them.

Exit codes: 0 done, 1 a stage failed, 2 something given is wrong, 130 interrupted, 143 terminated;
of `gate` 1 regression and 3 inconclusive.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated, Any

import typer

from . import __version__
from .commands.ask import ask
from .commands.baseline import baseline
from .commands.compare import compare
from .commands.doctor import doctor
from .commands.gate import gate
from .commands.import_ import import_
from .commands.latency import latency
from .commands.merge import merge
from .commands.overlap import overlap
from .commands.plan import plan
from .commands.push import push
from .commands.report import report
from .commands.run import run
from .commands.serve import serve
from .commands.site import site
from .commands.tasks import tasks
from .errors import MedbenchError

_UsageError: Any = typer.BadParameter.__base__
"""Typer has a copy of click of its own since 0.28, and gives this class no public name."""

app = typer.Typer(
    name="medbench",
    help="Fine-tune, score base and tuned on held-out questions, measure latency, report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


for verb in (
    plan,
    run,
    report,
    site,
    compare,
    gate,
    overlap,
    tasks,
    doctor,
    latency,
    ask,
    merge,
    push,
    serve,
):
    app.command()(verb)
app.command("import")(import_)
app.add_typer(baseline, name="baseline")


def main() -> None:
    """Run the program; every deliberate error becomes one message and an exit code."""
    # Waiting OpenMP threads spin by default: with a busy neighbour on a two-core machine, 30 steps
    # of the quickstart's tuning took 183 s instead of 4. Read when torch is loaded, so set first.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # peft imports bitsandbytes, which logs that an optional package for CPUs is missing.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        sys.exit(app(standalone_mode=False))
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # a verb was left out: the help is shown
            error.show()
        else:
            words = " ".join(error.format_message().split())
            program = error.ctx.command_path if error.ctx else "medbench"
            _stderr(f"medbench: {words}; see {program} --help")
        sys.exit(error.exit_code)
    except (typer.Abort, KeyboardInterrupt) as stop:
        sys.exit(getattr(stop, "exit_code", 130))
    except MedbenchError as error:
        _stderr(f"medbench: {error}")
        sys.exit(error.exit_code)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"medbench {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and leave."
        ),
    ] = False,
) -> None:
    pass


def _stderr(message: str) -> None:
    from .harness.secrets import redact

    message = redact(message)
    shown = "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in message)
    typer.echo(shown, err=True)
