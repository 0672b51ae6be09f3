"""The command line: parse, call one verb, turn its outcome into an exit code.

Exit codes: 0 done, 1 a stage failed, 2 something given is wrong, 130 interrupted.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from . import __version__
from .errors import InputError, MedbenchError

app = typer.Typer(
    name="medbench",
    help="Fine-tune, score base and tuned on held-out questions, measure latency, report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def main() -> None:
    """Run the program; every deliberate error becomes one message and an exit code."""
    # Waiting OpenMP threads spin by default: with a busy neighbour on a two-core machine, 30 steps
    # of the quickstart's tuning took 183 s instead of 4. Read when torch is loaded, so set first.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        app()
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


@app.command()
def run(
    suite: Annotated[
        str, typer.Option(help="Built-in suite (quickstart, medical-o1) or a YAML file.")
    ] = "quickstart",
    models: Annotated[
        str | None, typer.Option(help="Models of the suite, comma-separated; all by default.")
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Tasks of the suite, comma-separated; all by default.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Ask only the first N questions of each task.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; by default runs/<suite>.")] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**32 - 1, help="Seed of tuning; by default the recipe's."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    data_dir: Annotated[
        Path | None, typer.Option(help="Read data sets from DIR/<source>/ instead of the Hub.")
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Override a key of the suite, e.g. models.base.pretrained=./my-model."
        ),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Discard what OUT holds.")] = False,
) -> None:
    """Tune, score, export, measure and report; finished stages are not run again."""
    from .harness.device import resolve_device
    from .harness.plan import make_plan
    from .harness.quiet import quiet
    from .harness.run import execute, open_folder
    from .harness.suite import load_suite
    from .tasks import sources

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "medbench run is one process; to score over several GPUs use "
            "`accelerate launch -m lm_eval --model medbench` over the same task specs"
        )
    if data_dir is not None:
        if not data_dir.is_dir():
            raise InputError(f"--data-dir {data_dir}: no such folder")
        os.environ[sources.DATA_DIR] = str(data_dir.resolve())
    chosen = load_suite(suite, override)
    flags = {"seed": seed, "limit": limit}
    chosen = chosen.model_copy(update={k: v for k, v in flags.items() if v is not None})
    folder = out or Path("runs") / chosen.name
    plan = make_plan(
        chosen,
        models=models,
        tasks=tasks,
        device=resolve_device(device),
        command=shlex.join(["medbench", *sys.argv[1:]]),
    )
    target = open_folder(folder, plan, fresh=fresh)
    with quiet(target / "run.log") as terminal:
        from rich.console import Console

        from .harness.board import Board
        from .reports import Report, print_summary, write_reports

        console = Console(file=terminal)
        console.print(
            f"{chosen.name}: {', '.join(plan.models)} on {plan.device} → {folder}",
            highlight=False,
            markup=False,
        )
        try:
            with Board(console) as board:
                execute(plan, target, board)
        except MedbenchError as error:
            raise type(error)(
                f"{error}\nFinished stages are kept in {folder}; "
                "once the cause is mended, give the same command again to go on."
            ) from error
        except KeyboardInterrupt:
            console.print(
                f"Interrupted. Finished stages are kept in {folder}; to go on:", markup=False
            )
            console.print(f"  {plan.command}", highlight=False, markup=False, soft_wrap=True)
            raise typer.Exit(130) from None
        write_reports(target)
        print_summary(Report.read(target), console)
        console.print(
            f"Report: {folder / 'report.html'}", highlight=False, markup=False, soft_wrap=True
        )


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
) -> None:
    """Rebuild the reports of a run folder; needs no model, no data and no network."""
    from rich.console import Console

    from .harness.store import RunFolder
    from .reports import Report, print_summary, write_reports

    target = RunFolder.open(folder)
    write_reports(target)
    console = Console()
    print_summary(Report.read(target), console)
    console.print(
        f"Report: {folder / 'report.html'}", highlight=False, markup=False, soft_wrap=True
    )


@app.command("tasks")
def list_tasks() -> None:
    """List the tasks: how each is asked, how many questions, from where, under which licence."""
    from rich.console import Console
    from rich.table import Table

    from .tasks.catalog import tasks

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("task", "protocol", "questions", "source", "licence"):
        right = column == "questions"
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for task in tasks().values():
        table.add_row(
            task.name, task.protocol, str(task.questions or "–"), task.source, task.licence
        )
    Console().print(table)


@app.command()
def doctor() -> None:
    """Say what this machine has, what is missing, and the command that adds it."""
    from rich.console import Console
    from rich.table import Table

    from .harness.doctor import examine

    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in examine():
        mark = "[green]✓[/]" if finding.good else "[yellow]–[/]"
        remedy = f"\n[dim]{finding.remedy}[/]" if finding.remedy else ""
        table.add_row(mark, finding.name, finding.found + remedy)
    Console().print(table)


def _stderr(message: str) -> None:
    shown = "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in message)
    typer.echo(shown, err=True)
