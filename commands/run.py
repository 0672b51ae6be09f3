"""``medbench run``: the whole pipeline of a suite."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO, get_args

import typer

from ..errors import InputError, MedbenchError
from . import options

if TYPE_CHECKING:
    from ..harness.folder.lock import Held
    from ..harness.folder.store import RunFolder
    from ..harness.planning.plan import Plan
    from ..harness.ranks import Ranks
    from ..harness.run import Executor


def run(
    suite: options.Suite = "quickstart",
    models: options.Models = None,
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
    device: options.Device = "auto",
    data_dir: options.DataDir = None,
    override: options.Override = None,
    executor: Annotated[
        str | None,
        typer.Option(help="local, or ray: independent stages at once on a cluster."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Discard what OUT holds.")] = False,
) -> None:
    """Tune, score, export, measure and report; finished stages are not run again."""
    from ..harness import ranks
    from ..harness.executors.settings import Name
    from ..harness.launch import check_launch
    from ..harness.models.device import resolve_device
    from ..harness.models.serving import with_endpoints
    from ..harness.planning.plan import make_plan
    from ..harness.planning.preflight import preflight
    from ..harness.run import open_folder
    from ..harness.suite import load_suite

    with ranks.joined() as group:
        options.read_data_from(data_dir)
        chosen = load_suite(suite, override)
        if executor not in (None, *get_args(Name)):
            raise InputError(f"--executor {executor}: expected {' or '.join(get_args(Name))}")
        flags = {"seed": seed, "limit": limit, "executor": executor}
        chosen = chosen.model_copy(update={k: v for k, v in flags.items() if v is not None})
        chosen, models = with_endpoints(chosen, models)
        folder = out or Path("runs") / chosen.name
        plan = make_plan(
            chosen,
            models=models,
            tasks=tasks,
            device=resolve_device(device, elsewhere=chosen.executor == "ray"),
            command=shlex.join(["medbench", *sys.argv[1:]]),
        )
        check_launch(plan, group)
        if group.first:
            for note in preflight(plan):
                typer.echo(note, err=True)
            with _executor(plan, group) as who:
                _lead(plan, open_folder(folder, plan, fresh=fresh), who)
        else:
            _follow(plan, folder, group)


def _executor(plan: Plan, group: Ranks) -> AbstractContextManager[Executor]:
    """Who does the stages of *plan*."""
    if plan.suite.executor == "local":
        from ..harness.executors.local import Local

        return nullcontext(Local(group))
    from ..harness.executors.cluster import connected

    return connected(plan)


def _lead(plan: Plan, target: RunFolder, executor: Executor) -> None:
    """Run the plan, report, and say so on the terminal."""
    from ..harness.folder.lock import held
    from ..harness.folder.store import explain_unwritable
    from ..harness.quiet import quiet
    from ..harness.secrets import redact_file
    from ..harness.signals import Stopped, stopped_in_order

    folder = target.path
    say = partial(typer.echo, err=True)
    try:
        with (
            stopped_in_order(),
            held(folder, say) as lock,
            quiet(target / "run.log") as terminal,
        ):
            _perform(plan, target, executor, lock, terminal)
    except Stopped as stop:
        typer.echo(f"Interrupted. What is done is kept in {folder}; to go on:")
        typer.echo(f"  {plan.command}")
        raise typer.Exit(stop.exit_code) from None
    except OSError as error:
        raise explain_unwritable(error, folder) or error from error
    finally:
        for log in (target / "run.log", *target.path.glob("workers/*.log")):
            redact_file(log)


def _perform(
    plan: Plan, target: RunFolder, executor: Executor, lock: Held, terminal: TextIO
) -> None:
    from rich.console import Console

    from ..harness.board import Board
    from ..harness.run import execute
    from ..reports import Report, print_summary, write_reports
    from ..reports.tracker import tell

    folder = target.path
    console = Console(file=terminal)
    console.print(
        f"{plan.suite.name}: {', '.join(plan.models)} on {plan.device}{executor.extent} → {folder}",
        highlight=False,
        markup=False,
    )
    if target.manifest_damaged():
        console.print("manifest.json was damaged; going on from the one before it", markup=False)
    try:
        with Board(console) as board:
            execute(plan, target, board, lock, executor)
    except MedbenchError as error:
        told = str(error).rstrip(".")
        if "the same command again" not in told:
            told += (
                f". Finished stages are kept in {folder}: mend the cause and give the same command "
                "again to go on"
            )
        raise type(error)(told) from error
    report = Report.read(target)
    write_reports(target, report)
    print_summary(report, console)
    console.print(
        f"Report: {folder / 'report.html'}", highlight=False, markup=False, soft_wrap=True
    )
    for warning in tell(target, {name: one.watch for name, one in plan.recipes.items()}):
        console.print(warning, highlight=False, markup=False, soft_wrap=True)


def _follow(plan: Plan, folder: Path, group: Ranks) -> None:
    """Help the first process, which alone writes and speaks."""
    from ..harness.executors.local import follow
    from ..harness.folder.store import RunFolder
    from ..harness.quiet import quiet

    with quiet(Path(os.devnull)):
        follow(plan, RunFolder(folder), group)
